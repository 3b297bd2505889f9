/**
 * Writing a file from its first byte to its last, in chunks of any size, so that under its name there is never half of it. Knows nothing
 * of contents.
 */
import type { FileHandle } from 'node:fs/promises';
import { writeFileAtomic } from '../platform/atomic-file.ts';

/** Small chunks are gathered up to this size; larger ones are written as they are. */
const BUFFER_BYTES = 1024 * 1024;

/** Appends to the file in work. */
export class FileAppender {
  readonly #handle: FileHandle;
  readonly #buffer = new Uint8Array(BUFFER_BYTES);
  #buffered = 0;
  #written = 0;

  constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  /** Bytes appended so far. */
  get sizeBytes(): number {
    return this.#written + this.#buffered;
  }

  /** Takes the bytes over before it resolves; the caller may then use `bytes` again. */
  async append(bytes: Uint8Array): Promise<void> {
    if (this.#buffered + bytes.length > BUFFER_BYTES) await this.flush();
    if (bytes.length > BUFFER_BYTES) {
      await this.#write(bytes);
      return;
    }
    this.#buffer.set(bytes, this.#buffered);
    this.#buffered += bytes.length;
  }

  async appendZeros(count: number): Promise<void> {
    await this.append(new Uint8Array(count));
  }

  async flush(): Promise<void> {
    await this.#write(this.#buffer.subarray(0, this.#buffered));
    this.#buffered = 0;
  }

  async #write(bytes: Uint8Array): Promise<void> {
    let done = 0;
    while (done < bytes.length) {
      const { bytesWritten } = await this.#handle.write(bytes, done, bytes.length - done);
      done += bytesWritten;
    }
    this.#written += bytes.length;
  }
}

/**
 * Calls `write` on a new file and puts it in the place of `path` when all is on disk. If anything throws, `path` stays as it was.
 *
 * @returns size of the file in bytes
 */
export async function writeFileByAppending(
  path: string,
  write: (file: FileAppender) => Promise<void>,
): Promise<number> {
  return await writeFileAtomic(path, async (handle) => {
    const file = new FileAppender(handle);
    await write(file);
    await file.flush();
    return file.sizeBytes;
  });
}
