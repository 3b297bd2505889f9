/**
 * What the cache holds, as models a user can name, and the removal of them. Reads the disk only; no network.
 */
import { lstatSync, readdirSync, realpathSync, rmdirSync, statSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { dirname, isAbsolute, join, relative, sep } from 'node:path';
import { ALIASES, type AliasSource, EMBEDDED_ALIAS } from './aliases.ts';
import {
  type CacheSource,
  cachedCommit,
  cachedRepos,
  cachedSnapshots,
  filesUnder,
  INCOMPLETE_SUFFIX,
  type RepoFolder,
  recordedSpec,
  refsByCommit,
  repoFolder,
  type SnapshotFile,
  snapshotDir,
  snapshotFiles,
} from './cache.ts';
import type { HubEnvironment } from './environment.ts';
import { CacheError, ModelNotFoundError } from './errors.ts';
import { chooseFiles, fileStem, isFirstPart, isGgufModel } from './file-choice.ts';
import { httpsRepo } from './https-model.ts';
import { withRepoLock } from './lock.ts';
import { formatModelSpec, type ModelSpec } from './model-spec.ts';
import { DEFAULT_NETWORK_POLICY } from './network-policy.ts';
import { wheelModelOf } from './pypi-model.ts';
import { completeChoice } from './repo-model.ts';
import { parseSpec } from './resolve.ts';

/** One model in the cache, or what there is of one. */
export interface CachedModel {
  /** Names exactly this; can be given to `resolveModel` and `removeCached`. */
  readonly spec: string;
  /** The alias that means this model, if one does. */
  readonly alias?: string;
  readonly name: string;
  readonly source: CacheSource;
  /** What `resolveModel` would give; of an incomplete one the folder in the cache. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Commit hash; for sources without commits an id. */
  readonly revision: string;
  /** Branches and tags that stand for the revision. */
  readonly refs: readonly string[];
  /** SHA-256 of a single-file model, where known. */
  readonly digest?: string;
  readonly isComplete: boolean;
  readonly modifiedMs: number;
  readonly files: readonly { readonly path: string; readonly sizeBytes: number }[];
}

export interface RemovedModel {
  readonly spec: string;
  readonly freedBytes: number;
  /** Folders and files removed, absolute. */
  readonly paths: readonly string[];
}

/** All models in the cache, complete ones and begun ones, whoever downloaded them. */
export function listCached(env: HubEnvironment): CachedModel[] {
  return cachedRepos(env).flatMap(modelsOf);
}

/** The cached models a spec means; a repository without quantization means all of its models. */
export function describeCached(spec: string, env: HubEnvironment): CachedModel[] {
  const parsed = parseSpec(spec, env);
  const selections = selectionsOf(parsed, spec, env);
  return selections.flatMap((selection) =>
    modelsOf(selection.repo).filter((model) => isSelected(model, selection)),
  );
}

/**
 * Removes what a spec means from the cache: one model, or everything of a repository. Files that another model or
 * revision also needs stay. Nothing outside the cache is touched.
 *
 * @throws {ModelNotFoundError} if the cache has no such model; it lists what there is
 * @throws {CacheError} if a pull of it is under way, or it is not a thing of the cache (a path, the embedded model)
 */
export async function removeCached(spec: string, env: HubEnvironment): Promise<RemovedModel> {
  const selections = selectionsOf(parseSpec(spec, env), spec, env).filter(isThere);
  if (selections.length === 0) {
    const available = listCached(env).map((model) => model.alias ?? model.spec);
    throw new ModelNotFoundError(spec, 'is not in the cache', available);
  }
  const removed: { path: string; sizeBytes: number }[] = [];
  for (const { repo, commit, files } of selections) {
    const lock = { staleMs: DEFAULT_NETWORK_POLICY.lockStaleMs, whenHeld: 'refuse' } as const;
    await withRepoLock(repo, lock, async () => {
      requireInside(repo);
      if (commit === undefined && files === undefined) removed.push(await removeRepo(repo));
      else removed.push(...(await removeFromRepo(repo, commit, files)));
    });
  }
  return {
    spec,
    freedBytes: removed.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    paths: removed.map(({ path }) => path),
  };
}

/** Part of a repository: all of it, one revision, some files, or some files of one revision. */
interface Selection {
  readonly repo: RepoFolder;
  readonly commit: string | undefined;
  readonly files: ReadonlySet<string> | undefined;
}

function selectionsOf(parsed: ModelSpec, spec: string, env: HubEnvironment): Selection[] {
  switch (parsed.kind) {
    case 'path':
      throw new CacheError(parsed.path, 'is your own file, not one of the cache');
    case 'alias':
      if (parsed.name === EMBEDDED_ALIAS) {
        throw new CacheError(spec, 'is part of the installation, not of the cache');
      }
      return ALIASES.get(parsed.name)!.sources.map((source) => aliasSelection(source, env));
    case 'pypi': {
      const model = wheelModelOf(parsed);
      const repo = repoFolder(env, 'pypi', model.id);
      // A begun download has no snapshot yet: then the record says which version it was.
      const isBegun =
        cachedSnapshots(repo).length === 0 &&
        recordedSpec(repo)?.startsWith(formatModelSpec({ ...parsed, member: '' }));
      if (isBegun) return [{ repo, commit: undefined, files: undefined }];
      const commit = cachedCommit(repo, model.revision) ?? 'none';
      return [{ repo, commit, files: parsed.member ? new Set([parsed.member]) : undefined }];
    }
    case 'https': {
      // A listed address has lost its query, so it is also looked up by what was recorded.
      const recorded = cachedRepos(env).filter(
        (repo) => repo.source === 'https' && recordedSpec(repo) === parsed.url,
      );
      const repos = recorded.length > 0 ? recorded : [httpsRepo(parsed, env)];
      return repos.map((repo) => ({ repo, commit: undefined, files: undefined }));
    }
    default: {
      const repo = repoFolder(env, parsed.kind, parsed.repo);
      const commit =
        parsed.revision === undefined ? undefined : (cachedCommit(repo, parsed.revision) ?? 'none');
      if (parsed.file === undefined && parsed.quant === undefined) {
        return [{ repo, commit, files: undefined }];
      }
      const commits = commit === undefined ? cachedSnapshots(repo) : [commit];
      return commits.flatMap((each) => {
        const choice = chooseFiles([...snapshotFiles(repo, each).keys()], parsed);
        return choice.kind === 'none' ? [] : [{ repo, commit: each, files: new Set(choice.files) }];
      });
    }
  }
}

function aliasSelection(source: AliasSource, env: HubEnvironment): Selection {
  return source.kind === 'hf'
    ? { repo: repoFolder(env, 'hf', source.repo), commit: undefined, files: new Set([source.file]) }
    : { repo: repoFolder(env, 'pypi', source.model.id), commit: undefined, files: undefined };
}

function isThere({ repo, commit, files }: Selection): boolean {
  if (lstatSync(repo.dir, { throwIfNoEntry: false }) === undefined) return false;
  const commits = commit === undefined ? cachedSnapshots(repo) : [commit];
  if (files === undefined) return commit === undefined || cachedSnapshots(repo).includes(commit);
  return commits.some((each) =>
    [...snapshotFiles(repo, each).keys()].some((path) => files.has(path)),
  );
}

function isSelected(model: CachedModel, { commit, files }: Selection): boolean {
  if (commit !== undefined && model.revision !== commit) return false;
  return files === undefined || model.files.some(({ path }) => files.has(path));
}

function modelsOf(repo: RepoFolder): CachedModel[] {
  const refs = refsByCommit(repo);
  const models = cachedSnapshots(repo).flatMap((commit) =>
    snapshotModels(repo, commit, refs.get(commit) ?? []),
  );
  const partial = partialModel(repo);
  return partial === undefined ? models : [...models, partial];
}

function snapshotModels(repo: RepoFolder, commit: string, refs: readonly string[]): CachedModel[] {
  const files = snapshotFiles(repo, commit);
  const names = [...files.keys()];
  const dir = snapshotDir(repo, commit);
  const models = names
    .filter((name) => isGgufModel(name) && isFirstPart(name))
    .map((file) => completeChoice(chooseFiles(names, { file }), files))
    .filter((choice) => choice !== undefined)
    .map((choice) => {
      const parts = choice.files.map((path) => files.get(path)!);
      const file = choice.files[0]!;
      return cachedModel(repo, commit, refs, parts, file, join(dir, file));
    });
  const folder = completeChoice(
    chooseFiles(
      names.filter((name) => !isGgufModel(name)),
      {},
    ),
    files,
  );
  if (folder !== undefined) {
    const parts = folder.files.map((path) => files.get(path)!);
    models.push(cachedModel(repo, commit, refs, parts, undefined, dir));
  }
  return models;
}

function cachedModel(
  repo: RepoFolder,
  commit: string,
  refs: readonly string[],
  parts: readonly SnapshotFile[],
  file: string | undefined,
  path: string,
): CachedModel {
  const alias = aliasOf(repo, file);
  const blobName = parts[0]?.blobName;
  const hasDigest = file !== undefined && parts.length === 1 && blobName?.length === 64;
  return {
    spec: specOf(repo, commit, refs, file),
    ...(alias === undefined ? {} : { alias }),
    name: alias ?? (file === undefined ? repo.id : fileStem(file)),
    source: repo.source,
    path,
    sizeBytes: parts.reduce((sum, part) => sum + part.sizeBytes, 0),
    revision: commit,
    refs,
    ...(hasDigest ? { digest: blobName } : {}),
    isComplete: true,
    modifiedMs: Math.max(...parts.map((part) => statSync(part.absolutePath).mtimeMs)),
    files: parts.map(({ path: name, sizeBytes }) => ({ path: name, sizeBytes })),
  };
}

/** What begun downloads have left, as one entry per repository. */
function partialModel(repo: RepoFolder): CachedModel | undefined {
  const parts = filesUnder(repo.blobsDir)
    .filter((name) => name.endsWith(INCOMPLETE_SUFFIX))
    .map((path) => ({ path, stat: statSync(join(repo.blobsDir, path), { throwIfNoEntry: false }) }))
    .filter(({ stat }) => stat !== undefined);
  if (parts.length === 0) return undefined;
  const alias = aliasOf(repo, undefined);
  return {
    spec: recordedSpec(repo) ?? `${repo.source}:${repo.id}`,
    ...(alias === undefined ? {} : { alias }),
    name: repo.id,
    source: repo.source,
    path: repo.dir,
    sizeBytes: parts.reduce((sum, { stat }) => sum + stat!.size, 0),
    revision: '',
    refs: [],
    isComplete: false,
    modifiedMs: Math.max(...parts.map(({ stat }) => stat!.mtimeMs)),
    files: parts.map(({ path, stat }) => ({ path, sizeBytes: stat!.size })),
  };
}

function specOf(
  repo: RepoFolder,
  commit: string,
  refs: readonly string[],
  file: string | undefined,
): string {
  switch (repo.source) {
    case 'https':
      return recordedSpec(repo) ?? `https://${repo.id}`;
    case 'pypi':
      return `pypi:${repo.id}==${refs[0] ?? commit}${file === undefined ? '' : `/${file}`}`;
    default: {
      const isDefault = refs.includes(repo.source === 'hf' ? 'main' : 'master');
      return formatModelSpec({
        kind: repo.source,
        repo: repo.id,
        ...(file === undefined ? {} : { file }),
        ...(isDefault ? {} : { revision: refs[0] ?? commit }),
      });
    }
  }
}

function aliasOf(repo: RepoFolder, file: string | undefined): string | undefined {
  for (const { name, sources } of ALIASES.values()) {
    const isMeant = sources.some((source) =>
      source.kind === 'hf'
        ? repo.source === 'hf' && source.repo === repo.id && source.file === file
        : repo.source === 'pypi' && source.model.id === repo.id,
    );
    if (isMeant) return name;
  }
  return undefined;
}

/** A repository folder that is a link, or lies elsewhere, is not ours to empty. */
function requireInside(repo: RepoFolder): void {
  const real = realpathSync(repo.dir);
  const expected = join(realpathSync(repo.rootDir), relative(repo.rootDir, repo.dir));
  if (real !== expected || dirname(real) !== realpathSync(repo.rootDir)) {
    throw new CacheError(repo.dir, `leads to ${real}, outside the cache; remove it by hand`);
  }
}

async function removeRepo(repo: RepoFolder): Promise<{ path: string; sizeBytes: number }> {
  const sizeBytes = filesUnder(repo.dir)
    .map((path) => lstatSync(join(repo.dir, path), { throwIfNoEntry: false }))
    .reduce((sum, stat) => sum + (stat?.isFile() === true ? stat.size : 0), 0);
  await fs.rm(repo.dir, { recursive: true, force: true });
  return { path: repo.dir, sizeBytes };
}

async function removeFromRepo(
  repo: RepoFolder,
  commit: string | undefined,
  files: ReadonlySet<string> | undefined,
): Promise<{ path: string; sizeBytes: number }[]> {
  const removed: { path: string; sizeBytes: number }[] = [];
  const freedBlobs = new Set<string>();
  for (const each of commit === undefined ? cachedSnapshots(repo) : [commit]) {
    for (const [path, file] of snapshotFiles(repo, each)) {
      if (files !== undefined && !files.has(path)) continue;
      await fs.rm(file.absolutePath);
      if (file.blobName === undefined)
        removed.push({ path: file.absolutePath, sizeBytes: file.sizeBytes });
      else freedBlobs.add(file.blobName);
    }
    removeEmptyDirs(snapshotDir(repo, each));
  }
  const remaining = cachedSnapshots(repo);
  const inUse = new Set(
    remaining.flatMap((each) =>
      [...snapshotFiles(repo, each).values()].map((file) => file.blobName),
    ),
  );
  for (const name of freedBlobs) {
    const path = join(repo.blobsDir, name);
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (inUse.has(name) || stat?.isFile() !== true || !isWithin(repo.rootDir, path)) continue;
    await fs.rm(path);
    removed.push({ path, sizeBytes: stat.size });
  }
  if (remaining.length === 0) {
    removed.push(await removeRepo(repo));
    return removed;
  }
  for (const [each, refs] of refsByCommit(repo)) {
    if (remaining.includes(each)) continue;
    for (const ref of refs) await fs.rm(join(repo.dir, 'refs', ref), { force: true });
  }
  return removed;
}

function isWithin(rootDir: string, path: string): boolean {
  const way = relative(realpathSync(rootDir), realpathSync(path));
  return way !== '' && way.split(sep)[0] !== '..' && !isAbsolute(way);
}

/** Removes folders without files in them, the innermost first. Returns whether `dir` itself is gone. */
function removeEmptyDirs(dir: string): boolean {
  let isEmpty = true;
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    if (!entry.isDirectory() || !removeEmptyDirs(join(dir, entry.name))) isEmpty = false;
  }
  if (isEmpty) rmdirSync(dir);
  return isEmpty;
}
