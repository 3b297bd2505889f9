/** What the kernel keeps of files in memory. Knows nothing of what is in them. */
import { closeSync, openSync } from 'node:fs';
import { libcFunction } from './ffi.ts';

const POSIX_FADV_DONTNEED = 4;

/**
 * Lets go of a file's pages that are written out, so that whoever maps it reads it again, in pieces as large as the mapping allows. Advice: a kernel that does not
 * take it changes nothing.
 *
 * @throws an error of `node:fs` if the file cannot be opened
 */
export function dropFromPageCache(path: string): void {
  const fd = openSync(path, 'r');
  try {
    const advise = libcFunction('posix_fadvise', 'int32', ['int32', 'int64', 'int64', 'int32']);
    advise(fd, 0n, 0n, POSIX_FADV_DONTNEED);
  } finally {
    closeSync(fd);
  }
}
