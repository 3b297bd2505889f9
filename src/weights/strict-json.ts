/**
 * A JSON parser for files that are not trusted: from bytes, without recursion beyond a fixed depth, with a bound on the number of
 * values, refusing duplicate keys (JSON.parse keeps the last one in silence). Objects become Maps, so that no key is special.
 * Knows nothing of what the document means.
 */
import { Buffer, isUtf8 } from 'node:buffer';

/** A number keeps its spelling, because 1.0 or 1e3 is not an integer literal. */
export interface JsonNumber {
  readonly number: string;
}
export type JsonObject = ReadonlyMap<string, JsonValue>;
export type JsonValue = string | boolean | null | JsonNumber | readonly JsonValue[] | JsonObject;

/** What is wrong with the document, and where; the reader of the file adds which file. */
export class JsonSyntaxError extends Error {
  readonly offset: number;

  constructor(message: string, offset: number) {
    super(`${message} at byte ${offset} of the JSON`);
    this.name = 'JsonSyntaxError';
    this.offset = offset;
  }
}

const MAX_DEPTH = 16;
/** 131072 tensors of two dimensions in a safetensors header. */
const MAX_VALUES = 1 << 20;

/** @throws {JsonSyntaxError} if `bytes` is not one JSON value within the bounds above (white space around it is allowed) */
export function parseStrictJson(bytes: Uint8Array): JsonValue {
  return new Parser(bytes).document();
}

export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return value instanceof Map;
}

/** The value of an integer literal without sign, up to 2^53 - 1; else null. */
export function unsignedInteger(value: JsonValue | undefined): number | null {
  if (typeof value !== 'object' || value === null || !('number' in value)) return null;
  if (!/^\d+$/.test(value.number)) return null;
  const number = Number(value.number);
  return Number.isSafeInteger(number) ? number : null;
}

/** A value as it may stand in a message: numbers as spelled, strings quoted, the rest by kind. */
export function describeJson(value: JsonValue | undefined): string {
  if (value === undefined) return 'missing';
  if (typeof value === 'string') {
    return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}...` : value);
  }
  if (typeof value !== 'object' || value === null) return String(value);
  if ('number' in value) return value.number.slice(0, 40);
  if (value instanceof Map) return 'an object';
  const list = value as readonly JsonValue[];
  const shown = list.slice(0, 8).map(describeJson);
  return `[${shown.join(', ')}${list.length > 8 ? ', ...' : ''}]`;
}

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const MAX_NUMBER_LENGTH = 64;

class Parser {
  readonly #bytes: Buffer;
  #at = 0;
  #values = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    if (!isUtf8(bytes)) throw new JsonSyntaxError('invalid UTF-8', 0);
  }

  document(): JsonValue {
    const value = this.#value(0);
    this.#space();
    if (this.#at !== this.#bytes.length) throw this.#error('more after the end of the value');
    return value;
  }

  #error(message: string): JsonSyntaxError {
    return new JsonSyntaxError(message, this.#at);
  }

  #space(): void {
    for (;;) {
      const b = this.#bytes[this.#at];
      if (b !== 0x20 && b !== 0x0a && b !== 0x0d && b !== 0x09) return;
      this.#at++;
    }
  }

  #expect(char: string): void {
    if (this.#bytes[this.#at] !== char.charCodeAt(0)) {
      throw this.#error(`expected ${JSON.stringify(char)}, found ${this.#found()}`);
    }
    this.#at++;
  }

  #found(): string {
    const b = this.#bytes[this.#at];
    return b === undefined ? 'the end' : JSON.stringify(String.fromCharCode(b));
  }

  #value(depth: number): JsonValue {
    if (++this.#values > MAX_VALUES) throw this.#error(`more than ${MAX_VALUES} values`);
    this.#space();
    switch (this.#bytes[this.#at]) {
      case 0x7b:
        return this.#object(depth);
      case 0x5b:
        return this.#array(depth);
      case 0x22:
        return this.#string();
      case 0x74:
        return this.#word('true', true);
      case 0x66:
        return this.#word('false', false);
      case 0x6e:
        return this.#word('null', null);
      default:
        return this.#number();
    }
  }

  #enter(depth: number): void {
    if (depth >= MAX_DEPTH) throw this.#error(`nested deeper than ${MAX_DEPTH}`);
    this.#at++;
    this.#space();
  }

  #object(depth: number): JsonObject {
    this.#enter(depth);
    const object = new Map<string, JsonValue>();
    if (this.#bytes[this.#at] === 0x7d) {
      this.#at++;
      return object;
    }
    for (;;) {
      this.#space();
      const key = this.#string();
      if (object.has(key)) throw this.#error(`duplicate key ${describeJson(key)}`);
      this.#space();
      this.#expect(':');
      object.set(key, this.#value(depth + 1));
      this.#space();
      if (this.#bytes[this.#at] === 0x7d) {
        this.#at++;
        return object;
      }
      this.#expect(',');
    }
  }

  #array(depth: number): JsonValue[] {
    this.#enter(depth);
    const array: JsonValue[] = [];
    if (this.#bytes[this.#at] === 0x5d) {
      this.#at++;
      return array;
    }
    for (;;) {
      array.push(this.#value(depth + 1));
      this.#space();
      if (this.#bytes[this.#at] === 0x5d) {
        this.#at++;
        return array;
      }
      this.#expect(',');
    }
  }

  #string(): string {
    const start = this.#at;
    this.#expect('"');
    let hasEscape = false;
    for (;;) {
      const b = this.#bytes[this.#at];
      if (b === undefined) throw this.#error('a string without end');
      if (b < 0x20) throw this.#error('a control character in a string');
      this.#at++;
      if (b === 0x22) break;
      if (b !== 0x5c) continue;
      hasEscape = true;
      this.#at++;
    }
    if (!hasEscape) return this.#bytes.toString('utf8', start + 1, this.#at - 1);
    try {
      return JSON.parse(this.#bytes.toString('utf8', start, this.#at)) as string;
    } catch {
      this.#at = start;
      throw this.#error('an invalid escape in a string');
    }
  }

  #word<T>(word: string, value: T): T {
    if (this.#bytes.toString('latin1', this.#at, this.#at + word.length) !== word) {
      throw this.#error(`expected ${word}`);
    }
    this.#at += word.length;
    return value;
  }

  #number(): JsonNumber {
    const text = this.#bytes.toString('latin1', this.#at, this.#at + MAX_NUMBER_LENGTH);
    NUMBER.lastIndex = 0;
    const match = NUMBER.exec(text);
    if (match === null) throw this.#error(`expected a value, found ${this.#found()}`);
    if (match[0].length === MAX_NUMBER_LENGTH) throw this.#error('a number of absurd length');
    this.#at += match[0].length;
    return { number: match[0] };
  }
}
