/**
 * Writing files, and whole folders, so that a reader sees the old content or the new, never a half: temporary file
 * in the same folder, fsync, rename, fsync of the folder. Knows nothing of what is written.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/** A temporary of another machine (a shared folder) counts as left behind after this long. */
const STALE_MS = 24 * 60 * 60 * 1000;

export interface AtomicWriteOptions {
  /** Permission bits of the new file, before the umask (default 0o666). */
  readonly mode?: number;
}

/** Fills the file given; it is flushed and closed afterwards by `writeFileAtomic`. */
export type FileProducer<T> = (file: FileHandle) => Promise<T>;

/**
 * Replaces `path` by what `content` is, or by what it writes into the handle it gets. Missing
 * folders are made. If anything fails the old file stays and the temporary one is removed; those
 * of killed processes are removed by the next write to the same path.
 *
 * @returns what the producer returned
 */
export async function writeFileAtomic(
  path: string,
  content: string | Uint8Array,
  options?: AtomicWriteOptions,
): Promise<void>;
export async function writeFileAtomic<T>(
  path: string,
  content: FileProducer<T>,
  options?: AtomicWriteOptions,
): Promise<T>;
export async function writeFileAtomic<T>(
  path: string,
  content: string | Uint8Array | FileProducer<T>,
  options: AtomicWriteOptions = {},
): Promise<T | undefined> {
  const folder = dirname(path);
  await mkdir(folder, { recursive: true });
  await removeStaleTemporaries(path);
  const temporary = join(folder, temporaryName(basename(path)));
  let result: T | undefined;
  try {
    const file = await open(temporary, 'wx', options.mode ?? 0o666);
    try {
      if (typeof content === 'function') result = await content(file);
      else await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await unlink(temporary).catch(() => {}); // Why it failed counts, not that nothing could be removed.
    throw error;
  }
  await syncPath(folder);
  return result;
}

/**
 * Makes a folder that is there under its name only when `fill` has put everything into it. If anything fails nothing is left; what killed
 * processes left is removed by the next write to the same path.
 *
 * @param path must not exist
 * @param fill takes the path of a hidden folder beside `path`
 * @returns what `fill` returned
 */
export async function writeFolderAtomic<T>(
  path: string,
  fill: (folder: string) => Promise<T>,
): Promise<T> {
  const parent = dirname(path);
  await mkdir(parent, { recursive: true });
  await removeStaleTemporaries(path);
  const temporary = join(parent, temporaryName(basename(path)));
  await mkdir(temporary);
  try {
    const result = await fill(temporary);
    for (const name of await readdir(temporary)) await syncPath(join(temporary, name));
    await syncPath(temporary);
    await rename(temporary, path);
    await syncPath(parent);
    return result;
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/**
 * Removes temporaries that killed processes left beside `path`.
 * @returns how many were removed
 */
export async function removeStaleTemporaries(path: string): Promise<number> {
  const prefix = temporaryPrefix(basename(path));
  return await removeStale(dirname(path), (name) => name.startsWith(prefix));
}

/**
 * Removes temporaries that killed processes left in `folder`, whatever file they were to become.
 * @returns how many were removed
 */
export async function removeStaleTemporariesIn(folder: string): Promise<number> {
  return await removeStale(folder, () => true);
}

async function removeStale(folder: string, isWanted: (name: string) => boolean): Promise<number> {
  let numRemoved = 0;
  for (const name of await readdir(folder)) {
    const m = /^\..+\.(\d+)-[0-9a-f]{16}\.tmp$/s.exec(name);
    if (m === null || !isWanted(name)) continue;
    const temporary = join(folder, name);
    if (await isInUse(temporary, Number(m[1]))) continue;
    await rm(temporary, { recursive: true, force: true });
    numRemoved++;
  }
  return numRemoved;
}

/** Cut so that the name stays within the 255 bytes that file systems take. */
const temporaryPrefix = (base: string): string => `.${base.slice(0, 200)}.`;

const temporaryName = (base: string): string =>
  `${temporaryPrefix(base)}${process.pid}-${randomBytes(8).toString('hex')}.tmp`;

async function isInUse(temporary: string, pid: number): Promise<boolean> {
  if (!isRunning(pid)) return false;
  const info = await stat(temporary).catch(ignoreMissing);
  return info !== undefined && Date.now() - info.mtimeMs < STALE_MS;
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error;
  return undefined;
}

/** Makes a rename in a folder, or the content of a file, durable. Not all systems can open or sync a folder. */
async function syncPath(path: string): Promise<void> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, 'r');
    await handle.sync();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (!['EACCES', 'EINVAL', 'EISDIR', 'ENOTSUP', 'EPERM'].includes(code)) throw error;
  } finally {
    await handle?.close();
  }
}
