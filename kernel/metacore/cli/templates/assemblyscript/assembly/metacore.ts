// What an addon in AssemblyScript needs to speak with the kernel: the memory that requests and replies lie in, a little
// JSON, and the functions of the host. It has no dependencies; copy it, change it.

// @ts-ignore: decorator
@external("metacore_host", "log")
declare function hostLog(at: usize, length: i32): void;
// @ts-ignore: decorator
@external("metacore_host", "data_mutate")
declare function hostDataMutate(at: usize, length: i32): u64;

/** For the kernel: room for a request or an answer. Every call gets a fresh instance, so nothing is given back. */
export function alloc(size: i32): usize {
  return heap.alloc(max(size, 1));
}

/** The request of an exported function. */
export function request(at: usize, length: i32): string {
  return String.UTF8.decodeUnsafe(at, length);
}

/** Success; `json` is what the caller gets as data. */
export function success(json: string): u64 {
  return answer('{"success":true,"data":' + json + "}");
}

/** No, with a code of the addon's own. Nothing that the call did in its transaction stays. */
export function decline(code: string, message: string): u64 {
  return answer('{"success":false,"error":{"code":' + quoted(code) + ',"message":' + quoted(message) + "}}");
}

/** Write a line into the addon's log. */
export function log(line: string): void {
  const text = String.UTF8.encode(line);
  hostLog(changetype<usize>(text), text.byteLength);
}

/** Make a row of one of the addon's models; `columns` is a JSON object. What comes back is the host's envelope, which an
 * exported function may return as it is: what the host refuses then fails. */
export function create(model: string, columns: string): u64 {
  const text = String.UTF8.encode('{"op":"create","model":' + quoted(model) + ',"data":' + columns + "}");
  return hostDataMutate(changetype<usize>(text), text.byteLength);
}

/** `text` as a JSON string. */
export function quoted(text: string): string {
  let written = '"';
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (code == 0x22 || code == 0x5c) written += "\\" + text.charAt(index);
    else if (code < 0x20) written += "\\u00" + (code < 16 ? "0" : "") + code.toString(16);
    else written += text.charAt(index);
  }
  return written + '"';
}

/** The raw JSON at `key` of the JSON object `json`, "" when there is none. */
export function field(json: string, key: string): string {
  let at = after(json, 0, 0x7b);
  while (at < json.length && json.charCodeAt(at) == 0x22) {
    const end = valueEnd(json, at);
    const found = text(json.substring(at, end));
    at = after(json, end, 0x3a);
    const stop = valueEnd(json, at);
    if (found == key) return json.substring(at, stop);
    at = after(json, stop, 0x2c);
  }
  return "";
}

/** What the JSON string `json` says; "" for anything that is no string. */
export function text(json: string): string {
  if (json.length < 2 || json.charCodeAt(0) != 0x22) return "";
  let read = "";
  for (let index = 1; index < json.length - 1; index++) {
    if (json.charCodeAt(index) != 0x5c) {
      read += json.charAt(index);
      continue;
    }
    const letter = json.charAt(++index);
    if (letter == "n") read += "\n";
    else if (letter == "t") read += "\t";
    else if (letter == "r") read += "\r";
    else if (letter == "b") read += "\b";
    else if (letter == "f") read += "\f";
    else if (letter == "u") {
      read += String.fromCharCode(<i32>parseInt(json.substring(index + 1, index + 5), 16));
      index += 4;
    } else read += letter;
  }
  return read;
}

function answer(reply: string): u64 {
  const written = String.UTF8.encode(reply);
  const at = heap.alloc(written.byteLength);
  memory.copy(at, changetype<usize>(written), written.byteLength);
  return ((<u64>at) << 32) | (<u64>written.byteLength);
}

/** The place behind white space, one `mark` if it is there, and more white space. */
function after(json: string, from: i32, mark: i32): i32 {
  let at = from;
  let taken = false;
  while (at < json.length) {
    const code = json.charCodeAt(at);
    if (code == mark && !taken) taken = true;
    else if (code != 0x20 && code != 0x0a && code != 0x0d && code != 0x09) break;
    at++;
  }
  return at;
}

/** Where the value that begins at `from` ends. */
function valueEnd(json: string, from: i32): i32 {
  let depth = 0;
  let inside = false;
  for (let at = from; at < json.length; at++) {
    const code = json.charCodeAt(at);
    if (inside) {
      if (code == 0x5c) at++;
      else if (code == 0x22) {
        inside = false;
        if (depth == 0) return at + 1;
      }
    } else if (code == 0x22) inside = true;
    else if (code == 0x7b || code == 0x5b) depth++;
    else if (code == 0x7d || code == 0x5d) {
      if (depth == 0) return at;
      if (--depth == 0) return at + 1;
    } else if (depth == 0 && (code == 0x2c || code == 0x20 || code == 0x0a || code == 0x0d || code == 0x09)) return at;
  }
  return json.length;
}
