/**
 * Models at a plain address: found in the cache, or downloaded into it. The cache folder is known by the
 * address, which may hold a secret, so only its part before the query is written down.
 */
import {
  cachedCommit,
  contentId,
  publishBlob,
  type RepoFolder,
  repoFolder,
  snapshotFiles,
  writeRecord,
  writeRef,
} from './cache.ts';
import { downloadBlob } from './download.ts';
import type { HubEnvironment } from './environment.ts';
import { CacheError, DigestError } from './errors.ts';
import { fileStem, splitParts } from './file-choice.ts';
import { withoutQuery } from './http.ts';
import { withRepoLock } from './lock.ts';
import { type HttpsSpec, urlFileName } from './model-spec.ts';
import { idleEvent } from './progress.ts';
import type { PullContext, ResolvedModel } from './resolved-model.ts';

const REVISION = 'main';

export function httpsRepo(spec: HttpsSpec, env: HubEnvironment): RepoFolder {
  const host = new URL(spec.url).host.replace(/[^A-Za-z0-9.-]/g, '_').replace(/-{2,}/g, '-');
  return repoFolder(env, 'https', `${host}/${contentId(spec.url).slice(0, 16)}`);
}

export function findCachedHttpsModel(
  spec: HttpsSpec,
  env: HubEnvironment,
): ResolvedModel | undefined {
  const repo = httpsRepo(spec, env);
  const commit = cachedCommit(repo, REVISION);
  if (commit === undefined) return undefined;
  const files = snapshotFiles(repo, commit);
  const names = splitParts(urlFileName(spec.url));
  const parts = names.map((name) => files.get(name)).filter((file) => file !== undefined);
  const first = parts[0];
  if (first === undefined || parts.length !== names.length) return undefined;
  const digest = parts.length === 1 && first.blobName?.length === 64 ? first.blobName : undefined;
  if (spec.sha256 !== undefined && digest !== spec.sha256) return undefined;
  return {
    path: first.absolutePath,
    name: fileStem(first.path),
    source: 'https',
    sizeBytes: parts.reduce((sum, file) => sum + file.sizeBytes, 0),
    ...(digest === undefined ? {} : { digest }),
  };
}

/** @throws every error of the hub code; {DigestError} also for what is no GGUF file (an error page, say) */
export async function pullHttpsModel(
  spec: HttpsSpec,
  context: PullContext,
): Promise<ResolvedModel> {
  const { env, policy, signal, onProgress } = context;
  const repo = httpsRepo(spec, env);
  const commit = contentId(spec.url);
  const names = splitParts(urlFileName(spec.url));
  const onWait = (): void => onProgress?.(idleEvent('waiting', withoutQuery(spec.url)));
  return await withRepoLock(repo, { staleMs: policy.lockStaleMs, signal, onWait }, async (held) => {
    const present = findCachedHttpsModel(spec, env); // another process may have been first
    if (present !== undefined) return present;
    await writeRecord(repo, withoutQuery(spec.url));
    for (const name of names) {
      const url = new URL(spec.url);
      url.pathname = url.pathname.replace(/[^/]*$/, encodeURIComponent(name));
      const { blobName } = await downloadBlob({
        url: url.href,
        blobsDir: repo.blobsDir,
        key: contentId(url.href),
        label: name,
        digest:
          spec.sha256 !== undefined && names.length === 1
            ? { algorithm: 'sha256', hex: spec.sha256 }
            : undefined,
        checkHead: (head) => requireGgufMagic(name, head),
        policy,
        signal: held,
        onProgress,
      });
      await publishBlob(repo, commit, name, blobName);
    }
    await writeRef(repo, REVISION, commit);
    const model = findCachedHttpsModel(spec, env);
    if (model === undefined) throw new CacheError(repo.dir, 'lost files while they were pulled');
    return model;
  });
}

export function requireGgufMagic(name: string, head: Uint8Array): void {
  const start = Buffer.from(head.subarray(0, 4)).toString('latin1');
  if (start !== 'GGUF') {
    throw new DigestError(name, 'the start of the file', '"GGUF"', JSON.stringify(start));
  }
}
