/**
 * The on-disk layout of the model cache: that of the Hugging Face hub, so that models which other programs
 * (huggingface_hub, llama.cpp) have downloaded are found, and the other way round. Knows no network.
 *
 * ```
 * <hubCacheDir>/
 *   .locks/models--user--repo/hasten.lock/     one lock per repository, taken by pull and rm
 *   models--user--repo/
 *     blobs/<sha256, or git SHA-1>             whole files only: they get here by an atomic rename
 *     blobs/<name>.hasten.incomplete           a download that can be resumed (and its .json note)
 *     refs/<branch or tag>                     the commit it stood for when last pulled
 *     snapshots/<commit>/<path>                symlinks ../../blobs/<name>, or plain files where symlinks are not allowed
 * <otherCacheDir>/                           HF_HOME/hasten: the same layout for what did not come from the Hugging Face hub
 *   modelscope/models--user--repo/
 *   pypi/models--package/
 *   https/models--host--id/
 * ```
 * Layout: huggingface.co/docs/hub/local-cache.
 */
import { createHash, randomBytes } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { basename, dirname, join, relative, sep } from 'node:path';
import type { HubEnvironment } from './environment.ts';
import { CacheError } from './errors.ts';
import { isSafeRelativePath } from './safe-path.ts';

const CACHE_SOURCES = ['hf', 'modelscope', 'pypi', 'https'] as const;
export type CacheSource = (typeof CACHE_SOURCES)[number];

/** Ends the name of every file that is not yet whole. */
export const INCOMPLETE_SUFFIX = '.hasten.incomplete';

const RECORD_FILE = 'hasten.json';

/** The places of one repository in the cache. Making one touches no disk. */
export interface RepoFolder {
  readonly source: CacheSource;
  /** `user/repo`, package name, or host and address id. */
  readonly id: string;
  readonly rootDir: string;
  readonly dir: string;
  readonly blobsDir: string;
  readonly lockPath: string;
}

/** A whole file of a snapshot. */
export interface SnapshotFile {
  /** Inside the snapshot, with `/`. */
  readonly path: string;
  readonly absolutePath: string;
  readonly sizeBytes: number;
  /** Name of the blob it links to; undefined where the cache holds plain files. */
  readonly blobName: string | undefined;
}

function cacheRoot(env: HubEnvironment, source: CacheSource): string {
  return source === 'hf' ? env.hubCacheDir : join(env.otherCacheDir, source);
}

export function repoFolder(env: HubEnvironment, source: CacheSource, id: string): RepoFolder {
  const folderName = `models--${id.replaceAll('/', '--')}`;
  if (!isSafeRelativePath(folderName)) throw new CacheError(id, 'is not a repository name');
  const rootDir = cacheRoot(env, source);
  const dir = join(rootDir, folderName);
  return {
    source,
    id,
    rootDir,
    dir,
    blobsDir: join(dir, 'blobs'),
    lockPath: join(rootDir, '.locks', folderName, 'hasten.lock'),
  };
}

/** All repositories that the cache holds, in the order of their names. */
export function cachedRepos(env: HubEnvironment): RepoFolder[] {
  return CACHE_SOURCES.flatMap((source) =>
    namesIn(cacheRoot(env, source))
      .filter((name) => name.startsWith('models--'))
      .map((name) => repoFolder(env, source, name.slice('models--'.length).replaceAll('--', '/')))
      .filter((repo) => lstatSync(repo.dir, { throwIfNoEntry: false })?.isDirectory() === true),
  );
}

/** The commit a branch, tag or commit hash stands for in the cache; undefined if it was never pulled. */
export function cachedCommit(repo: RepoFolder, revision: string): string | undefined {
  if (/^[0-9a-f]{40}$/.test(revision)) return revision;
  try {
    const commit = readFileSync(join(repo.dir, 'refs', revision), 'utf8').trim();
    return isSafeRelativePath(commit) && !commit.includes('/') ? commit : undefined;
  } catch {
    return undefined;
  }
}

/** Branch and tag names that stand for each commit. */
export function refsByCommit(repo: RepoFolder): Map<string, string[]> {
  const refs = new Map<string, string[]>();
  for (const path of filesUnder(join(repo.dir, 'refs'))) {
    const commit = cachedCommit(repo, path);
    if (commit !== undefined) refs.set(commit, [...(refs.get(commit) ?? []), path]);
  }
  return refs;
}

export function cachedSnapshots(repo: RepoFolder): string[] {
  return namesIn(join(repo.dir, 'snapshots'));
}

export function snapshotDir(repo: RepoFolder, commit: string): string {
  return join(repo.dir, 'snapshots', commit);
}

/** The whole files of a snapshot by path; links that lead nowhere are left out. */
export function snapshotFiles(repo: RepoFolder, commit: string): Map<string, SnapshotFile> {
  const files = new Map<string, SnapshotFile>();
  const dir = snapshotDir(repo, commit);
  for (const path of filesUnder(dir)) {
    const file = snapshotFile(join(dir, path), path);
    if (file !== undefined) files.set(path, file);
  }
  return files;
}

function snapshotFile(absolutePath: string, path: string): SnapshotFile | undefined {
  const stat = statSync(absolutePath, { throwIfNoEntry: false });
  if (stat?.isFile() !== true) return undefined;
  let blobName: string | undefined;
  try {
    blobName = basename(readlinkSync(absolutePath));
  } catch {
    blobName = undefined; // a plain file
  }
  return { path, absolutePath, sizeBytes: stat.size, blobName };
}

/** Paths of the files and links below `dir`, relative, with `/`, sorted. No folder: empty. */
export function filesUnder(dir: string): string[] {
  try {
    return readdirSync(dir, { recursive: true, withFileTypes: true })
      .filter((entry) => !entry.isDirectory())
      .map((entry) => relative(dir, join(entry.parentPath, entry.name)).split(sep).join('/'))
      .sort();
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

/** Replaces `refs/<revision>` in one step. */
export async function writeRef(repo: RepoFolder, revision: string, commit: string): Promise<void> {
  if (revision === commit) return;
  await writeFileAtomic(join(repo.dir, 'refs', revision), commit);
}

/**
 * Notes in the repository's folder what was pulled (`hasten.json`), for sources whose folder name does not say it.
 *
 * @param spec without secrets
 */
export async function writeRecord(repo: RepoFolder, spec: string): Promise<void> {
  await writeFileAtomic(join(repo.dir, RECORD_FILE), JSON.stringify({ spec }));
}

export function recordedSpec(repo: RepoFolder): string | undefined {
  try {
    const record: unknown = JSON.parse(readFileSync(join(repo.dir, RECORD_FILE), 'utf8'));
    const spec = (record as { spec?: unknown } | null)?.spec;
    return typeof spec === 'string' ? spec : undefined;
  } catch {
    return undefined;
  }
}

/** Replaces a small file in one step: a reader sees the old or the new text, never a part. */
export async function writeFileAtomic(path: string, text: string): Promise<void> {
  await fs.mkdir(dirname(path), { recursive: true });
  const temporary = temporaryBeside(path);
  await fs.writeFile(temporary, text);
  await fs.rename(temporary, path);
}

/**
 * Makes `snapshots/<commit>/<path>` stand for a whole blob. Where symlinks are not allowed the blob itself moves there,
 * as huggingface_hub does.
 *
 * @param symlink replaced in tests to act like a system without symlinks
 */
export async function publishBlob(
  repo: RepoFolder,
  commit: string,
  path: string,
  blobName: string,
  symlink: (target: string, path: string) => Promise<void> = fs.symlink,
): Promise<string> {
  if (!isSafeRelativePath(path)) throw new CacheError(path, 'is not a path inside a snapshot');
  const link = join(snapshotDir(repo, commit), path);
  const blob = join(repo.blobsDir, blobName);
  await fs.mkdir(dirname(link), { recursive: true });
  const temporary = temporaryBeside(link);
  try {
    await symlink(relative(dirname(link), blob), temporary);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (!['EPERM', 'EACCES', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP', 'EINVAL'].includes(code))
      throw error;
    await fs.rename(blob, link);
    return link;
  }
  await fs.rename(temporary, link);
  return link;
}

/** A stable 40-digit id for things that have no commit of their own. */
export function contentId(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 40);
}

function temporaryBeside(path: string): string {
  return join(
    dirname(path),
    `.${basename(path).slice(0, 80)}.${randomBytes(6).toString('hex')}.tmp`,
  );
}

export function isMissing(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir).sort();
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}
