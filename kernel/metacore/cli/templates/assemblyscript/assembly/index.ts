import { decline, field, log, quoted, request, success, text } from "./metacore";

export { alloc } from "./metacore";

/** An action on a row: the request holds the row, the input, who asks, and more (docs: Write an addon with code). */
export function greet(at: usize, length: i32): u64 {
  const asked = request(at, length);
  const title = text(field(field(asked, "row"), "title"));
  if (title == "") return decline("nameless", "this one has no title");
  log("greeting " + text(field(asked, "id")));
  return success('{"greeting":' + quoted("Hello, " + title + "!") + "}");
}
