/**
 * Values of a model description by key, each checked when it is read. Serves `config.json` and GGUF metadata alike; knows the keys of neither.
 */
import { StringList } from '../platform/string-list.ts';
import { ModelError } from './errors.ts';

/** More layers, heads or rows than any model has: a broken or hostile file, refused before anything is sized by it. */
const MAX_SIZE = 2 ** 31 - 1;

export class ConfigFields {
  /** The file, for messages. */
  readonly source: string;
  readonly #get: (key: string) => unknown;

  constructor(source: string, get: (key: string) => unknown) {
    this.source = source;
    this.#get = get;
  }

  /** @param defaults values of absent keys */
  static ofObject(
    source: string,
    object: Readonly<Record<string, unknown>>,
    defaults: Readonly<Record<string, unknown>> = {},
  ): ConfigFields {
    const own = (record: Readonly<Record<string, unknown>>, key: string) =>
      Object.hasOwn(record, key) ? record[key] : undefined;
    return new ConfigFields(source, (key) => own(object, key) ?? own(defaults, key));
  }

  /** Absent and null are the same: both mean that the model has no such thing. */
  has(key: string): boolean {
    return this.#value(key) !== undefined;
  }

  /** A whole number from 1 to 2^31 - 1. */
  size(key: string, fallback?: number): number {
    const value = this.#valueOr(key, fallback, 'a positive whole number');
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > MAX_SIZE) {
      this.#fail(key, value, 'a positive whole number below 2^31');
    }
    return value;
  }

  number(key: string, fallback?: number): number {
    const value = this.#valueOr(key, fallback, 'a number');
    if (typeof value !== 'number' || !Number.isFinite(value)) {
      this.#fail(key, value, 'a finite number');
    }
    return value;
  }

  positive(key: string, fallback?: number): number {
    const value = this.number(key, fallback);
    if (!(value > 0)) this.#fail(key, value, 'a number above 0');
    return value;
  }

  boolean(key: string, fallback?: boolean): boolean {
    const value = this.#valueOr(key, fallback, 'true or false');
    if (typeof value !== 'boolean') this.#fail(key, value, 'true or false');
    return value;
  }

  string(key: string, fallback?: string): string {
    const value = this.#valueOr(key, fallback, 'a string');
    if (typeof value !== 'string') this.#fail(key, value, 'a string');
    return value;
  }

  /** A nested object; null if absent. */
  object(key: string): Readonly<Record<string, unknown>> | null {
    const value = this.#value(key);
    if (value === undefined) return null;
    if (typeof value !== 'object' || Array.isArray(value) || ArrayBuffer.isView(value)) {
      this.#fail(key, value, 'an object');
    }
    return value as Readonly<Record<string, unknown>>;
  }

  /** A list (JSON array or GGUF array) as it is; null if absent. */
  list(key: string): ArrayLike<unknown> | null {
    const value = this.#value(key);
    if (value === undefined) return null;
    if (Array.isArray(value)) return value;
    if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
      return value as unknown as ArrayLike<unknown>;
    }
    return this.#fail(key, value, 'a list');
  }

  /** A list of strings of GGUF metadata; null if absent. */
  strings(key: string): StringList | null {
    const value = this.#value(key);
    if (value === undefined || value instanceof StringList) return value ?? null;
    return this.#fail(key, value, 'a list of strings');
  }

  numbers(key: string): readonly number[] | null {
    const list = this.list(key);
    if (list === null) return null;
    const numbers = Array.from(list);
    for (const item of numbers) {
      if (typeof item !== 'number' || !Number.isFinite(item)) {
        this.#fail(key, item, 'a list of finite numbers');
      }
    }
    return numbers as readonly number[];
  }

  /** A list of true and false; null if absent, or something else. */
  flags(key: string): readonly boolean[] | null {
    const value = this.#value(key);
    return Array.isArray(value) && value.every((item) => typeof item === 'boolean') ? value : null;
  }

  /** One number, or a list of them, as files write what may differ from layer to layer; none if absent. */
  oneOrMore(key: string): readonly number[] {
    const value = this.#value(key);
    return typeof value === 'number' ? [this.number(key)] : (this.numbers(key) ?? []);
  }

  /** One token id or a list of them, as `eos_token_id` is written; none if absent. -1 is how some files write "none". */
  tokenIds(key: string): readonly number[] {
    const ids = this.oneOrMore(key).filter((id) => id !== -1);
    for (const id of ids) {
      if (!Number.isInteger(id) || id < 0 || id > MAX_SIZE) this.#fail(key, id, 'a token id');
    }
    return ids;
  }

  #value(key: string): unknown {
    return this.#get(key) ?? undefined;
  }

  #valueOr(key: string, fallback: unknown, expected: string): unknown {
    const value = this.#value(key) ?? fallback;
    if (value === undefined) {
      throw new ModelError(`${this.source}: "${key}" is missing; expected ${expected}`, {
        seen: 'nothing',
        expected,
      });
    }
    return value;
  }

  #fail(key: string, value: unknown, expected: string): never {
    const seen = JSON.stringify(value, replaceBigInt)?.slice(0, 80) ?? String(value);
    throw new ModelError(`${this.source}: "${key}" is ${seen}; expected ${expected}`, {
      seen,
      expected,
    });
  }
}

function replaceBigInt(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `${value}` : value;
}
