// Package metacore is what an addon in Go needs to speak with the kernel: the memory that requests and replies lie in,
// and the functions of the host. It has no dependencies; copy it, change it.
package metacore

import (
	"encoding/json"
	"fmt"
	"runtime"
	"unsafe"
)

// Refusal is an error with a code: what the host answers when it says no, and what an addon answers to decline.
type Refusal struct {
	Code     string `json:"code"`
	Message  string `json:"message"`
	SQLState string `json:"sqlstate,omitempty"`
}

func (refusal *Refusal) Error() string { return refusal.Code + ": " + refusal.Message }

// Decline ends an action with a code of the addon's own. Nothing that it did in its transaction stays.
func Decline(code, format string, values ...any) error {
	return &Refusal{Code: code, Message: fmt.Sprintf(format, values...)}
}

// UUID is an argument of Query and Exec that PostgreSQL takes as a uuid.
func UUID(text string) map[string]string { return map[string]string{"$uuid": text} }

type envelope struct {
	Success bool            `json:"success"`
	Data    json.RawMessage `json:"data,omitempty"`
	Error   *Refusal        `json:"error,omitempty"`
}

// What the host was given a pointer to must stay where it is; every call gets a fresh instance, so nothing piles up.
var held [][]byte

//go:wasmexport alloc
func alloc(size uint32) uint32 {
	room := make([]byte, max(size, 1))
	held = append(held, room)
	return address(room)
}

// Handle is the body of an exported function: it reads the request, and answers with what handler gives.
func Handle[Request any](at, length uint32, handler func(request Request) (any, error)) uint64 {
	var request Request
	answer := envelope{Success: true}
	err := json.Unmarshal(bytesAt(at, length), &request)
	if err == nil {
		var data any
		if data, err = handler(request); err == nil {
			answer.Data, err = json.Marshal(data)
		}
	}
	if err != nil {
		answer = envelope{Error: &Refusal{Code: "failed", Message: err.Error()}}
		if refusal, ok := err.(*Refusal); ok {
			answer.Error = refusal
		}
	}
	written, err := json.Marshal(answer)
	if err != nil {
		panic(err)
	}
	held = append(held, written)
	return uint64(address(written))<<32 | uint64(len(written))
}

// Log writes a line into the addon's log.
func Log(format string, values ...any) {
	line := []byte(fmt.Sprintf(format, values...))
	hostLog(address(line), uint32(len(line)))
	runtime.KeepAlive(line)
}

// Setting is the value of one of the addon's settings, "" when there is none.
func Setting(key string) string {
	name := []byte(key)
	packed := hostEnvGet(address(name), uint32(len(name)))
	runtime.KeepAlive(name)
	return string(bytesAt(uint32(packed>>32), uint32(packed)))
}

// Query runs one SELECT. Arguments are $1, $2, …; rows are decoded into Row.
func Query[Row any](sql string, arguments ...any) ([]Row, error) {
	var found struct {
		Rows []Row `json:"rows"`
	}
	err := asked(hostDBQuery, sql, arguments, &found)
	return found.Rows, err
}

// Exec runs one INSERT, UPDATE, DELETE or MERGE within the action's transaction, and tells how many rows it changed.
func Exec(sql string, arguments ...any) (int, error) {
	var done struct {
		RowsAffected int `json:"rowsAffected"`
	}
	err := asked(hostDBExec, sql, arguments, &done)
	return done.RowsAffected, err
}

// Emit tells an event. Within an action's transaction it goes out when that is committed.
func Emit(name string, payload any) error { return called(hostEventEmit, []byte(name), payload, nil) }

// Create makes a row of one of the addon's models, in a transaction of its own, and gives its id.
func Create(model string, columns any) (string, error) {
	var made struct {
		ID string `json:"id"`
	}
	request := map[string]any{"op": "create", "model": model, "data": columns}
	written, err := json.Marshal(request)
	if err != nil {
		return "", err
	}
	packed := hostDataMutate(address(written), uint32(len(written)))
	runtime.KeepAlive(written)
	err = opened(packed, &made)
	return made.ID, err
}

type twoTexts func(a, aLength, b, bLength uint32) uint64

func asked(host twoTexts, sql string, arguments []any, into any) error {
	if arguments == nil {
		arguments = []any{}
	}
	return called(host, []byte(sql), arguments, into)
}

func called(host twoTexts, first []byte, second any, into any) error {
	written, err := json.Marshal(second)
	if err != nil {
		return err
	}
	packed := host(address(first), uint32(len(first)), address(written), uint32(len(written)))
	runtime.KeepAlive(first)
	runtime.KeepAlive(written)
	return opened(packed, into)
}

func opened(packed uint64, into any) error {
	var answer envelope
	if err := json.Unmarshal(bytesAt(uint32(packed>>32), uint32(packed)), &answer); err != nil {
		return err
	}
	if !answer.Success {
		if answer.Error == nil {
			return &Refusal{Code: "failed", Message: "the host said no"}
		}
		return answer.Error
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer.Data, into)
}

func address(data []byte) uint32 {
	if len(data) == 0 {
		return 0
	}
	return uint32(uintptr(unsafe.Pointer(unsafe.SliceData(data))))
}

func bytesAt(at, length uint32) []byte {
	if length == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(uintptr(at))), length)
}

//go:wasmimport metacore_host log
func hostLog(at, length uint32)

//go:wasmimport metacore_host env_get
func hostEnvGet(at, length uint32) uint64

//go:wasmimport metacore_host db_query
func hostDBQuery(sql, sqlLength, arguments, argumentsLength uint32) uint64

//go:wasmimport metacore_host db_exec
func hostDBExec(sql, sqlLength, arguments, argumentsLength uint32) uint64

//go:wasmimport metacore_host event_emit
func hostEventEmit(name, nameLength, payload, payloadLength uint32) uint64

//go:wasmimport metacore_host data_mutate
func hostDataMutate(request, length uint32) uint64
