/**
 * A regular file read at positions (pread). Knows its size at opening and that it may shrink; knows nothing of what is in it.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { WeightFileError } from './errors.ts';

/** Linux reads at most 2^31 - 4096 bytes at once. */
const MAX_READ_BYTES = 1 << 30;

export class PositionedFile implements Disposable {
  readonly path: string;
  /** At opening. */
  readonly sizeBytes: number;
  #fd: number | null;

  /** @throws {WeightFileError} if `path` cannot be opened or is no regular file */
  constructor(path: string) {
    this.path = path;
    try {
      // Without O_NONBLOCK, opening a FIFO would wait for a writer.
      this.#fd = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    } catch (cause) {
      throw unreadable(path, cause);
    }
    try {
      const stat = fstatSync(this.#fd);
      if (!stat.isFile()) {
        const kind = stat.isDirectory() ? 'a folder' : 'not a regular file';
        throw new WeightFileError(`is ${kind}; expected a GGUF or safetensors file`, {
          fault: 'unreadable',
          file: path,
        });
      }
      this.sizeBytes = stat.size;
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /**
   * Fills `into` from byte `position` on.
   *
   * @param tensor for the error message
   * @throws {WeightFileError} if the file ends first, cannot be read or is closed
   */
  readInto(into: Uint8Array, position: number, tensor?: string): void {
    if (this.#fd === null) {
      throw new WeightFileError('is closed; open it again to read from it', {
        fault: 'usage',
        file: this.path,
        tensor,
      });
    }
    let done = 0;
    while (done < into.length) {
      const length = Math.min(into.length - done, MAX_READ_BYTES);
      let count: number;
      try {
        count = readSync(this.#fd, into, done, length, position + done);
      } catch (cause) {
        throw unreadable(this.path, cause, tensor);
      }
      if (count === 0) {
        throw new WeightFileError(
          `ends at byte ${position + done}, but ${into.length} bytes from byte ${position} were expected; ` +
            `it had ${this.sizeBytes} bytes when it was opened. Fetch it again.`,
          {
            fault: 'truncated',
            file: this.path,
            tensor,
            values: { position, expectedBytes: into.length, readBytes: done },
          },
        );
      }
      done += count;
    }
  }

  close(): void {
    if (this.#fd === null) return;
    closeSync(this.#fd);
    this.#fd = null;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function unreadable(file: string, cause: unknown, tensor?: string): WeightFileError {
  const code =
    cause instanceof Error && 'code' in cause && typeof cause.code === 'string' ? cause.code : '';
  const reason =
    code === 'ENOENT'
      ? 'no such file'
      : code === 'EACCES'
        ? 'permission denied'
        : `cannot be read (${cause instanceof Error ? cause.message : String(cause)})`;
  return new WeightFileError(reason, { fault: 'unreadable', file, tensor, cause });
}
