/** Files into the page cache before a run, so that none waits for the disk to read them. */
import { createReadStream, statSync } from 'node:fs';
import { glob } from 'node:fs/promises';
import { join } from 'node:path';

/** @param path a file, or a folder whose files are read */
export async function readIntoMemory(path: string): Promise<void> {
  if (statSync(path).isDirectory()) {
    for await (const file of glob('*', { cwd: path })) await readIntoMemory(join(path, file));
    return;
  }
  for await (const _ of createReadStream(path, { highWaterMark: 1 << 22 }));
}
