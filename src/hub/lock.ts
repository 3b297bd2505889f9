/**
 * One pull or removal per repository at a time, across processes. A lock is a folder whose time its holder renews;
 * a holder that was killed stops renewing and its lock is taken over after `staleMs`.
 * huggingface_hub has locks of its own (flock, per blob): it never writes our incomplete files and we never write its,
 * and both put whole files in place by a rename, so the two need no common lock.
 */
import * as fs from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RepoFolder } from './cache.ts';
import { CacheError } from './errors.ts';

const POLL_MS = 200;

export interface LockOptions {
  readonly staleMs: number;
  readonly signal?: AbortSignal | undefined;
  /** What to do while another process holds it. Default: wait. */
  readonly whenHeld?: 'wait' | 'refuse';
  /** Called once a poll while another holder has the lock. */
  readonly onWait?: (() => void) | undefined;
}

/**
 * Runs `work` while holding the repository's lock, waiting for it if need be.
 *
 * @throws {CacheError} if it is held and `whenHeld` is `refuse`
 * @param work gets a signal that fires when the caller's does, or when the lock was lost (a suspended process)
 */
export async function withRepoLock<T>(
  repo: RepoFolder,
  options: LockOptions,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const lost = new AbortController();
  const signal =
    options.signal === undefined ? lost.signal : AbortSignal.any([options.signal, lost.signal]);
  await fs.mkdir(dirname(repo.lockPath), { recursive: true });
  const release = await acquire(repo, options, (error) =>
    lost.abort(new CacheError(repo.dir, `lost its lock: ${error.message}`, { cause: error })),
  );
  try {
    return await work(signal);
  } finally {
    await release().catch(() => {}); // already gone if it was lost
  }
}

async function acquire(
  repo: RepoFolder,
  options: LockOptions,
  onCompromised: (error: Error) => void,
): Promise<() => Promise<void>> {
  // Loaded only where something is pulled or removed: a start from the cache must be quick.
  const { lock } = await import('proper-lockfile');
  for (;;) {
    options.signal?.throwIfAborted();
    try {
      return await lock(repo.dir, {
        lockfilePath: repo.lockPath,
        realpath: false,
        stale: options.staleMs,
        update: Math.max(1000, options.staleMs / 4),
        onCompromised,
      });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ELOCKED') throw error;
    }
    if (options.whenHeld === 'refuse') {
      throw new CacheError(
        repo.dir,
        'is in use: another process is pulling or removing it; try again later',
      );
    }
    options.onWait?.();
    await sleep(POLL_MS, undefined, { signal: options.signal }).catch(() => {});
  }
}
