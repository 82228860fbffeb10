// The code of the journal addon: what happens to orders is written down, one entry per event.
import { create, decline, field, log, quoted, request, text } from "./metacore";

export { alloc } from "./metacore";

/** A subscription to `orders.*`. The kernel calls it at least once per event, in order: should a kernel be killed in the
 * middle, there may be two entries of one number. */
export function note(at: usize, length: i32): u64 {
  const told = request(at, length);
  const event = text(field(told, "event"));
  if (event == "") return decline("no_event", "there is no event in this request");
  log("noting " + event);
  const data = field(told, "data");
  return create(
    "JournalEntry",
    '{"event":' + quoted(event) + ',"number":' + field(told, "sequence_num") + ',"details":' + (data == "" ? "{}" : data) + "}",
  );
}
