/** Rows that are measured already, in a JSON file, so that a run which was broken off goes on after the last one. Knows nothing of what is in a row. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

export class RowStore {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  get<T>(key: string): T | undefined {
    return this.#read()[key] as T | undefined;
  }

  /** Read each time: another run may have added rows meanwhile. */
  #read(): Record<string, unknown> {
    return existsSync(this.#path) ? JSON.parse(readFileSync(this.#path, 'utf8')) : {};
  }

  /** The row of `key`; made and kept if there is none. */
  async ensure<T>(key: string, make: () => Promise<T>): Promise<T> {
    const known = this.get<T>(key);
    if (known !== undefined) return known;
    const row = await make();
    const rows = { ...this.#read(), [key]: row };
    mkdirSync(dirname(this.#path), { recursive: true });
    const temporary = `${this.#path}.tmp`;
    writeFileSync(temporary, `${JSON.stringify(rows, null, 1)}\n`);
    renameSync(temporary, this.#path);
    return row;
  }
}
