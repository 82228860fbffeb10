package main

import "addon/metacore"

// Request is what an action on a row gets; there is more in it (docs: Write an addon with code).
type Request struct {
	ID  string `json:"id"`
	Row struct {
		Title string `json:"title"`
	} `json:"row"`
}

//go:wasmexport greet
func greet(at, length uint32) uint64 {
	return metacore.Handle(at, length, func(request Request) (any, error) {
		if request.Row.Title == "" {
			return nil, metacore.Decline("nameless", "this one has no title")
		}
		metacore.Log("greeting %s", request.ID)
		return map[string]string{"greeting": "Hello, " + request.Row.Title + "!"}, nil
	})
}

func main() {}
