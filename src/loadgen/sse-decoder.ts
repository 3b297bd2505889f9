/**
 * Takes a server-sent event stream apart, however the network cut it. Knows the event stream format of the HTML standard, not what is in it.
 */
import { StringDecoder } from 'node:string_decoder';

/** An event beyond this is no chunk of a completion: the stream is given up instead of filling the memory. */
const MAX_EVENT_CHARACTERS = 16 * 2 ** 20;

export class SseDecoder {
  readonly #decoder = new StringDecoder('utf8');
  /** What came of a line that has not ended yet. */
  #rest = '';
  #data: string | undefined;
  #isFirst = true;

  /**
   * @returns the data of each event that is now complete
   * @throws {RangeError} if an event does not end
   */
  push(part: Uint8Array): string[] {
    let text = this.#rest + this.#decoder.write(part);
    if (this.#isFirst && text !== '') {
      this.#isFirst = false;
      if (text.startsWith('\ufeff')) text = text.slice(1);
    }
    const events: string[] = [];
    let start = 0;
    for (;;) {
      const end = lineEnd(text, start);
      if (end < 0) break;
      this.#line(text.slice(start, end), events);
      start = text[end] === '\r' && text[end + 1] === '\n' ? end + 2 : end + 1;
    }
    this.#rest = text.slice(start);
    if (this.#rest.length + (this.#data?.length ?? 0) > MAX_EVENT_CHARACTERS) {
      throw new RangeError(`an event of more than ${MAX_EVENT_CHARACTERS} characters`);
    }
    return events;
  }

  #line(line: string, events: string[]): void {
    if (line === '') {
      if (this.#data !== undefined) events.push(this.#data);
      this.#data = undefined;
    } else if (line.startsWith('data:')) {
      const value = line.slice(line[5] === ' ' ? 6 : 5);
      this.#data = this.#data === undefined ? value : `${this.#data}\n${value}`;
    }
    // Comments (keep-alive pings) and other fields say nothing about tokens.
  }
}

/** Where the line that begins at `start` ends; -1 if it may go on. A `\r` at the very end may be half of `\r\n`. */
function lineEnd(text: string, start: number): number {
  const newline = text.indexOf('\n', start);
  const line = text.slice(start, newline < 0 ? undefined : newline);
  const carriage = line.indexOf('\r');
  if (carriage < 0) return newline;
  return start + carriage + 1 < text.length ? start + carriage : -1;
}
