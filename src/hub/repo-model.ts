/**
 * Models from hubs with repositories (Hugging Face, ModelScope): found in the cache, or pulled into it.
 * The hub itself is behind `listRepo`.
 */
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import {
  cachedCommit,
  contentId,
  publishBlob,
  type RepoFolder,
  repoFolder,
  type SnapshotFile,
  snapshotDir,
  snapshotFiles,
  writeRef,
} from './cache.ts';
import { downloadBlob } from './download.ts';
import type { HubEnvironment } from './environment.ts';
import { CacheError, ModelNotFoundError } from './errors.ts';
import {
  chooseFiles,
  type FileChoice,
  fileStem,
  isGgufModel,
  preferredGguf,
  shardsOf,
  WEIGHTS_INDEX,
} from './file-choice.ts';
import { withRepoLock } from './lock.ts';
import { formatModelSpec, type RepoSpec } from './model-spec.ts';
import { idleEvent } from './progress.ts';
import { type RepoFile, type RepoListing, revisionOf } from './repo-listing.ts';
import type { PullContext, ResolvedModel } from './resolved-model.ts';

/**
 * The model if the cache has all of it.
 *
 * @param anyQuant without a quantization in the spec: be content with whatever is there (no hub can be asked);
 *   otherwise only with what the hub would give
 */
export function findCachedRepoModel(
  spec: RepoSpec,
  env: HubEnvironment,
  anyQuant: boolean,
): ResolvedModel | undefined {
  const repo = repoFolder(env, spec.kind, spec.repo);
  const commit = cachedCommit(repo, revisionOf(spec));
  if (commit === undefined) return undefined;
  const files = snapshotFiles(repo, commit);
  const names = [...files.keys()];
  const choice = completeChoice(chooseFiles(names, spec), files);
  if (choice === undefined) return undefined;
  const isOpen = spec.quant === undefined && spec.file === undefined && choice.kind === 'gguf';
  if (isOpen && !anyQuant && preferredGguf(names) !== choice.files[0]) return undefined;
  return resolvedModel(spec, snapshotDir(repo, commit), choice, files);
}

/** The choice with its shards named, if every file of it is there. */
export function completeChoice(
  choice: FileChoice,
  files: ReadonlyMap<string, SnapshotFile>,
): Exclude<FileChoice, { kind: 'none' }> | undefined {
  if (choice.kind === 'none') return undefined;
  if (choice.kind !== 'sharded') return choice;
  const index = files.get(WEIGHTS_INDEX);
  if (index === undefined) return undefined;
  let shards: string[];
  try {
    shards = shardsOf(JSON.parse(readFileSync(index.absolutePath, 'utf8')));
  } catch {
    return undefined;
  }
  if (!shards.every((shard) => files.has(shard))) return undefined;
  return { kind: 'sharded', files: [...choice.files, ...shards] };
}

/** Fetches what is missing of the model. @throws every error of the hub code */
export async function pullRepoModel(spec: RepoSpec, context: PullContext): Promise<ResolvedModel> {
  const { env, policy, signal, onProgress } = context;
  const shown = formatModelSpec(spec);
  onProgress?.(idleEvent('resolving', shown));
  const listing = await listRepo(spec, context);
  const byPath = new Map(listing.files.map((file) => [file.path, file]));
  const choice = chooseFiles([...byPath.keys()], spec);
  if (choice.kind === 'none') {
    const ggufs = [...byPath.keys()].filter(isGgufModel);
    throw new ModelNotFoundError(shown, `the repository ${choice.reason}`, ggufs);
  }

  const repo = repoFolder(env, spec.kind, spec.repo);
  const onWait = (): void => onProgress?.(idleEvent('waiting', shown));
  return await withRepoLock(repo, { staleMs: policy.lockStaleMs, signal, onWait }, async (held) => {
    const locked = { ...context, signal: held };
    const fetchFile = (path: string): Promise<void> =>
      fetchIntoSnapshot(repo, listing, requiredFile(byPath, path, shown), locked);
    for (const path of choice.files) await fetchFile(path);
    if (choice.kind === 'sharded') {
      const indexPath = join(snapshotDir(repo, listing.commit), WEIGHTS_INDEX);
      for (const shard of readShards(indexPath, shown)) await fetchFile(shard);
    }
    await writeRef(repo, revisionOf(spec), listing.commit);
    const files = snapshotFiles(repo, listing.commit);
    const complete = completeChoice(choice, files);
    if (complete === undefined) throw new CacheError(repo.dir, 'lost files while they were pulled');
    return resolvedModel(spec, snapshotDir(repo, listing.commit), complete, files);
  });
}

/** Only the code of the hub that is asked is loaded. */
async function listRepo(spec: RepoSpec, context: PullContext): Promise<RepoListing> {
  if (spec.kind === 'hf') {
    const { listHfRepo } = await import('./hf-source.ts');
    return await listHfRepo(spec, context.env, context);
  }
  const { listModelscopeRepo } = await import('./modelscope-source.ts');
  return await listModelscopeRepo(spec, context.env, context);
}

async function fetchIntoSnapshot(
  repo: RepoFolder,
  listing: RepoListing,
  file: RepoFile,
  context: PullContext,
): Promise<void> {
  const target = join(snapshotDir(repo, listing.commit), file.path);
  if (hasSize(target, file.sizeBytes)) return;
  let blobName = file.digest?.hex;
  if (blobName === undefined || !hasSize(join(repo.blobsDir, blobName), file.sizeBytes)) {
    const blob = await downloadBlob({
      url: file.url,
      blobsDir: repo.blobsDir,
      key: blobName ?? contentId(file.url),
      label: file.path,
      digest: file.digest,
      sizeBytes: file.sizeBytes,
      policy: context.policy,
      signal: context.signal,
      onProgress: context.onProgress,
      secretHeaders: listing.secretHeaders,
      accessHint: listing.accessHint,
    });
    blobName = blob.blobName;
  }
  await publishBlob(repo, listing.commit, file.path, blobName);
}

function readShards(indexPath: string, shown: string): string[] {
  try {
    return shardsOf(JSON.parse(readFileSync(indexPath, 'utf8')));
  } catch (error) {
    throw new ModelNotFoundError(shown, `${WEIGHTS_INDEX} ${(error as Error).message}`);
  }
}

function requiredFile(files: ReadonlyMap<string, RepoFile>, path: string, shown: string): RepoFile {
  const file = files.get(path);
  if (file !== undefined) return file;
  throw new ModelNotFoundError(shown, `the index names "${path}", which the repository lacks`);
}

function resolvedModel(
  spec: RepoSpec,
  dir: string,
  choice: Exclude<FileChoice, { kind: 'none' }>,
  files: ReadonlyMap<string, SnapshotFile>,
): ResolvedModel {
  const parts = choice.files.map((path) => files.get(path)).filter((file) => file !== undefined);
  const blobName = parts[0]?.blobName;
  const isSingleFile = choice.kind === 'gguf' && parts.length === 1;
  return {
    path: choice.kind === 'gguf' ? join(dir, choice.files[0]!) : dir,
    name: nameOf(spec),
    source: spec.kind,
    sizeBytes: parts.reduce((sum, file) => sum + file.sizeBytes, 0),
    ...(isSingleFile && blobName?.length === 64 ? { digest: blobName } : {}),
  };
}

function nameOf(spec: RepoSpec): string {
  if (spec.file !== undefined) return fileStem(spec.file);
  return spec.quant === undefined ? spec.repo : `${spec.repo}:${spec.quant}`;
}

function hasSize(path: string, sizeBytes: number | undefined): boolean {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat?.isFile() === true && (sizeBytes === undefined || stat.size === sizeBytes);
}
