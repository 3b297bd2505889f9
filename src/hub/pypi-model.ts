/**
 * Models that come as files in wheels on PyPI: found in the cache, or taken out of the wheels into it.
 * A model may be cut into parts over several packages; they are joined in order. What is done of them survives a kill:
 * the joined file grows part by part, and a note beside it says how far it is good.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import type { WheelModel, WheelPart } from './aliases.ts';
import {
  cachedCommit,
  contentId,
  INCOMPLETE_SUFFIX,
  publishBlob,
  type RepoFolder,
  repoFolder,
  type SnapshotFile,
  snapshotFiles,
  writeFileAtomic,
  writeRecord,
  writeRef,
} from './cache.ts';
import { asDiskError } from './download.ts';
import type { HubEnvironment } from './environment.ts';
import { CacheError, DigestError, DiskSpaceError, ModelNotFoundError } from './errors.ts';
import { fileStem, isGgufModel } from './file-choice.ts';
import { requireGgufMagic } from './https-model.ts';
import { withRepoLock } from './lock.ts';
import type { PypiSpec } from './model-spec.ts';
import { idleEvent, ProgressMeter } from './progress.ts';
import type { PullContext, ResolvedModel } from './resolved-model.ts';
import { isSafeRelativePath } from './safe-path.ts';
import type { ZipMember } from './zip.ts';

/** A user's spec as a model of one part. Package names that differ in `-_.` and case are the same package. */
export function wheelModelOf(spec: PypiSpec): WheelModel {
  const { version, member } = spec;
  return {
    id: spec.package.toLowerCase().replace(/[-_.]+/g, '-'),
    revision: version,
    parts: [{ package: spec.package, version, ...(member === undefined ? {} : { member }) }],
  };
}

export function findCachedWheelModel(
  model: WheelModel,
  env: HubEnvironment,
): ResolvedModel | undefined {
  const repo = repoFolder(env, 'pypi', model.id);
  const commit = cachedCommit(repo, model.revision);
  if (commit === undefined) return undefined;
  const files = snapshotFiles(repo, commit);
  const wanted = model.fileName ?? model.parts[0]!.member;
  const models = [...files.values()].filter((file) => isGgufModel(file.path));
  const file = wanted === undefined ? onlyOne(models) : files.get(wanted);
  return file === undefined ? undefined : resolvedModel(file);
}

/** @throws every error of the hub code */
export async function pullWheelModel(
  model: WheelModel,
  context: PullContext,
): Promise<ResolvedModel> {
  const { env, policy, signal, onProgress } = context;
  const repo = repoFolder(env, 'pypi', model.id);
  const shown = `pypi:${model.id}==${model.revision}`;
  const onWait = (): void => onProgress?.(idleEvent('waiting', shown));
  return await withRepoLock(repo, { staleMs: policy.lockStaleMs, signal, onWait }, async (held) => {
    const present = findCachedWheelModel(model, env); // another process may have been first
    if (present !== undefined) return present;
    await fs.mkdir(repo.blobsDir, { recursive: true });
    await writeRecord(repo, shown);
    const joined = await joinParts(model, repo, { ...context, signal: held });
    const commit = contentId(shown);
    await publishBlob(repo, commit, joined.fileName, joined.blobName);
    await writeRef(repo, model.revision, commit);
    const file = snapshotFiles(repo, commit).get(joined.fileName);
    if (file === undefined) throw new CacheError(repo.dir, 'lost files while they were pulled');
    return resolvedModel(file);
  });
}

interface JoinState {
  /** Size of each part that is in the file, in order. */
  readonly partBytes: readonly number[];
  readonly fileName: string | undefined;
}

async function joinParts(
  model: WheelModel,
  repo: RepoFolder,
  context: PullContext,
): Promise<{ fileName: string; blobName: string }> {
  const path = join(repo.blobsDir, contentId(JSON.stringify(model.parts)) + INCOMPLETE_SUFFIX);
  const notePath = `${path}.json`;
  const file = await fs.open(path, 'a+').then(async (made) => {
    await made.close();
    return await fs.open(path, 'r+');
  });
  try {
    const state = await readState(notePath);
    const partBytes = [...state.partBytes];
    let { fileName } = state;
    let offset = partBytes.reduce((sum, bytes) => sum + bytes, 0);
    if ((await file.stat()).size < offset || partBytes.length > model.parts.length) {
      partBytes.length = 0;
      offset = 0;
    }
    await file.truncate(offset);
    for (const part of model.parts.slice(partBytes.length)) {
      const added = await appendPart(part, repo, file, offset, context);
      offset += added.sizeBytes;
      partBytes.push(added.sizeBytes);
      fileName = model.fileName ?? added.member;
      await file.sync();
      await writeFileAtomic(notePath, JSON.stringify({ partBytes, fileName }));
    }
    const blobName = await checkJoined(path, fileName ?? model.id, model.sha256, context);
    await fs.rename(path, join(repo.blobsDir, blobName));
    await fs.rm(notePath, { force: true });
    return { fileName: fileName ?? model.id, blobName };
  } catch (error) {
    if (error instanceof DigestError) {
      await fs.rm(path, { force: true });
      await fs.rm(notePath, { force: true });
    }
    throw asDiskError(error, path);
  } finally {
    await file.close();
  }
}

/** Downloads one wheel and appends its member to `file`. */
async function appendPart(
  part: WheelPart,
  repo: RepoFolder,
  file: fs.FileHandle,
  offset: number,
  context: PullContext,
): Promise<{ member: string; sizeBytes: number }> {
  const { env, policy, signal } = context;
  // Loaded only where they are used: what they are built on would cost every start some milliseconds.
  const [{ downloadWheel }, { readZipDirectory, readZipMember }] = await Promise.all([
    import('./pip.ts'),
    import('./zip.ts'),
  ]);
  const requirement = `${part.package}==${part.version}`;
  await clearWheels(repo);
  const dir = await fs.mkdtemp(join(repo.dir, 'wheel-'));
  try {
    const wheel = await downloadWheel({
      commands: env.pipCommands,
      variables: env.pipVariables,
      requirement,
      dir,
      stallTimeoutMs: policy.stallTimeoutMs,
      signal,
      onProgress: context.onProgress,
    });
    const members = await readZipDirectory(wheel);
    const member = chooseMember(members, part, requirement);
    await checkRoom(repo.blobsDir, member.sizeBytes);
    const recorded = await recordedDigest(wheel, members, member.name);

    const meter = new ProgressMeter(member.name, context.onProgress);
    meter.start('unpacking', 0, member.sizeBytes);
    const hash = createHash('sha256');
    let written = 0;
    for await (const chunk of readZipMember(wheel, member, signal)) {
      hash.update(chunk);
      await file.write(chunk, 0, chunk.length, offset + written);
      written += chunk.length;
      meter.advance('unpacking', written, member.sizeBytes);
    }
    const digest = hash.digest('base64url');
    if (recorded !== undefined && digest !== recorded) {
      throw new DigestError(member.name, 'sha256 (base64)', recorded, digest);
    }
    meter.finish(written);
    return { member: member.name, sizeBytes: written };
  } finally {
    await fs.rm(dir, { recursive: true, force: true });
  }
}

function chooseMember(
  members: ReadonlyMap<string, ZipMember>,
  part: WheelPart,
  requirement: string,
): ZipMember {
  const ggufs = [...members.values()].filter(({ name }) => isGgufModel(name));
  const member = part.member === undefined ? onlyOne(ggufs) : members.get(part.member);
  if (member !== undefined && isSafeRelativePath(member.name)) return member;
  const reason =
    part.member === undefined
      ? `its wheel holds ${ggufs.length} GGUF files; name one as pypi:${requirement}/member`
      : `its wheel has no member "${part.member}"`;
  const shown = ggufs.length > 0 ? ggufs.map(({ name }) => name) : [...members.keys()];
  throw new ModelNotFoundError(`pypi:${requirement}`, reason, shown);
}

/** The SHA-256 that the wheel's own RECORD states for a member, in base64url without padding. */
async function recordedDigest(
  wheel: string,
  members: ReadonlyMap<string, ZipMember>,
  name: string,
): Promise<string | undefined> {
  const record = [...members.values()].find((member) =>
    /^[^/]+\.dist-info\/RECORD$/.test(member.name),
  );
  if (record === undefined || record.sizeBytes > 2 ** 24) return undefined;
  const { readZipMember } = await import('./zip.ts');
  const chunks: Uint8Array[] = [];
  for await (const chunk of readZipMember(wheel, record)) chunks.push(chunk);
  const line = Buffer.concat(chunks)
    .toString('utf8')
    .split(/\r?\n/)
    .find((text) => text.startsWith(`${name},sha256=`));
  return line
    ?.slice(name.length + ',sha256='.length)
    .split(',', 1)[0]
    ?.replace(/=+$/, '');
}

async function checkJoined(
  path: string,
  label: string,
  sha256: string | undefined,
  { onProgress, signal }: PullContext,
): Promise<string> {
  const { size } = await fs.stat(path);
  const meter = new ProgressMeter(label, onProgress);
  meter.start('verifying', 0, size);
  const hash = createHash('sha256');
  let offset = 0;
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20, signal })) {
      if (offset === 0) requireGgufMagic(label, chunk as Buffer);
      hash.update(chunk as Buffer);
      offset += (chunk as Buffer).length;
      meter.advance('verifying', offset, size);
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  }
  const actual = hash.digest('hex');
  if (sha256 !== undefined && actual !== sha256)
    throw new DigestError(label, 'sha256', sha256, actual);
  meter.finish(size);
  return actual;
}

async function readState(notePath: string): Promise<JoinState> {
  try {
    const note: unknown = JSON.parse(await fs.readFile(notePath, 'utf8'));
    const { partBytes, fileName } = note as Record<string, unknown>;
    const isValid =
      Array.isArray(partBytes) && partBytes.every((bytes) => Number.isSafeInteger(bytes));
    if (isValid && typeof fileName === 'string')
      return { partBytes: partBytes as number[], fileName };
  } catch {
    // no note, or not readable: begin anew
  }
  return { partBytes: [], fileName: undefined };
}

/** Removes what killed runs left of their wheels; the lock is held, so none is in use. */
async function clearWheels(repo: RepoFolder): Promise<void> {
  for (const name of await fs.readdir(repo.dir)) {
    if (name.startsWith('wheel-'))
      await fs.rm(join(repo.dir, name), { recursive: true, force: true });
  }
}

async function checkRoom(dir: string, neededBytes: number): Promise<void> {
  const { bavail, bsize } = await fs.statfs(dir);
  if (bavail * bsize < neededBytes) throw new DiskSpaceError(dir, neededBytes, bavail * bsize);
}

function resolvedModel(file: SnapshotFile): ResolvedModel {
  return {
    path: file.absolutePath,
    name: fileStem(file.path),
    source: 'pypi',
    sizeBytes: file.sizeBytes,
    ...(file.blobName?.length === 64 ? { digest: file.blobName } : {}),
  };
}

function onlyOne<T>(items: readonly T[]): T | undefined {
  return items.length === 1 ? items[0] : undefined;
}
