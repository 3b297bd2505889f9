/**
 * ModelScope: what is in a repository at a revision, and where its files are.
 * API as its own client uses it: `GET /api/v1/models/{repo}/repo/files`, files at `…/repo?Revision=&FilePath=`.
 * The listing names no commit, so the snapshot is known by an id of the files' digests.
 */
import { contentId } from './cache.ts';
import type { HubEnvironment } from './environment.ts';
import { ModelNotFoundError, NetworkError } from './errors.ts';
import { getJson, type RequestOptions } from './http.ts';
import { formatModelSpec, type RepoSpec } from './model-spec.ts';
import {
  field,
  type RepoFile,
  type RepoListing,
  revisionOf,
  sizeField,
  stringField,
} from './repo-listing.ts';
import { isSafeRelativePath } from './safe-path.ts';

/** @throws {ModelNotFoundError} if there is no such repository or revision */
export async function listModelscopeRepo(
  spec: RepoSpec,
  env: HubEnvironment,
  request: Pick<RequestOptions, 'policy' | 'signal'>,
): Promise<RepoListing> {
  const token = env.modelscopeToken;
  const secretHeaders: Record<string, string> =
    token === undefined
      ? {}
      : { authorization: `Bearer ${token}`, cookie: `m_session_id=${token}` };
  const accessHint = 'Set MODELSCOPE_API_TOKEN to a token that may read this repository.';
  const base = `${env.modelscopeEndpoint}/api/v1/models/${spec.repo}/repo`;
  const revision = revisionOf(spec);
  const query = `Revision=${encodeURIComponent(revision)}`;
  let answer: unknown;
  try {
    answer = await getJson(`${base}/files?${query}&Recursive=True`, {
      ...request,
      secretHeaders,
      accessHint,
    });
  } catch (error) {
    if (!(error instanceof NetworkError) || error.status !== 404) throw error;
    answer = undefined;
  }

  const entries = field(field(answer, 'Data'), 'Files');
  if (!Array.isArray(entries)) {
    const message = stringField(answer, 'Message');
    throw new ModelNotFoundError(
      formatModelSpec(spec),
      `no repository "${spec.repo}" with revision "${revision}" at ${env.modelscopeEndpoint}${message ? ` (${message})` : ''}`,
    );
  }
  const files = entries
    .map((entry: unknown) => repoFile(entry, `${base}?${query}`))
    .filter((file) => file !== undefined)
    .sort((a, b) => (a.path < b.path ? -1 : 1));
  const commit = contentId(
    files.map(({ path, digest, sizeBytes }) => `${path} ${digest?.hex ?? sizeBytes}\n`).join(''),
  );
  return { commit, files, secretHeaders, accessHint };
}

function repoFile(entry: unknown, base: string): RepoFile | undefined {
  const path = stringField(entry, 'Path');
  if (stringField(entry, 'Type') === 'tree') return undefined;
  if (path === undefined || !isSafeRelativePath(path)) return undefined; // not for any cache
  const sha256 = stringField(entry, 'Sha256')?.toLowerCase();
  return {
    path,
    sizeBytes: sizeField(entry, 'Size'),
    digest:
      sha256 !== undefined && /^[0-9a-f]{64}$/.test(sha256)
        ? { algorithm: 'sha256', hex: sha256 }
        : undefined,
    url: `${base}&FilePath=${encodeURIComponent(path)}`,
  };
}
