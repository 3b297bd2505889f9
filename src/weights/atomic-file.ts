/**
 * Writing a file so that under its name there is never half of it: a temporary name in the same folder, fsync, rename, fsync of the
 * folder. Knows nothing of contents.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

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
 * Calls `write` on a temporary file and puts it in the place of `path` when all is on disk. If anything throws, `path` stays as it
 * was and the temporary file is removed.
 *
 * @returns size of the file in bytes
 */
export async function writeFileAtomically(
  path: string,
  write: (file: FileAppender) => Promise<void>,
): Promise<number> {
  const folder = dirname(path);
  const suffix = `${process.pid}-${randomBytes(6).toString('hex')}`;
  const temporary = join(folder, `.${basename(path).slice(0, 200)}.${suffix}.part`);
  const handle = await open(temporary, 'wx', 0o644);
  let sizeBytes: number;
  try {
    try {
      const file = new FileAppender(handle);
      await write(file);
      await file.flush();
      await handle.sync();
      sizeBytes = file.sizeBytes;
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(folder);
  return sizeBytes;
}

/** Makes the rename durable; not every system lets a folder be opened for that. */
async function syncFolder(folder: string): Promise<void> {
  try {
    const handle = await open(folder, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch {
    // The file itself is on disk under one of its two names; only the name may be the old one after a power cut.
  }
}
