/**
 * The Hugging Face hub: what is in a repository at a revision, and where its files are.
 * API: huggingface.co/docs/hub/api, `GET /api/models/{repo}/revision/{revision}?blobs=true`.
 */
import * as fs from 'node:fs/promises';
import type { FileDigest } from './download.ts';
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
export async function listHfRepo(
  spec: RepoSpec,
  env: HubEnvironment,
  request: Pick<RequestOptions, 'policy' | 'signal'>,
): Promise<RepoListing> {
  const token = await hfToken(env);
  const secretHeaders: Record<string, string> =
    token === undefined ? {} : { authorization: `Bearer ${token}` };
  const accessHint =
    token === undefined
      ? 'The repository does not exist, is private, or wants its terms accepted: log in on the hub, accept them, and set HF_TOKEN.'
      : 'The token in use may not read this repository, or its terms have not been accepted.';
  const revision = revisionOf(spec);
  const url = `${env.hfEndpoint}/api/models/${spec.repo}/revision/${encodeURIComponent(revision)}?blobs=true`;
  let answer: unknown;
  try {
    answer = await getJson(url, { ...request, secretHeaders, accessHint });
  } catch (error) {
    if (!(error instanceof NetworkError) || error.status !== 404) throw error;
    throw new ModelNotFoundError(
      formatModelSpec(spec),
      `no repository "${spec.repo}" with revision "${revision}" at ${env.hfEndpoint}`,
    );
  }

  const commit = stringField(answer, 'sha');
  const siblings = field(answer, 'siblings');
  if (commit === undefined || !/^[0-9a-f]{40}$/.test(commit) || !Array.isArray(siblings)) {
    throw new NetworkError(env.hfEndpoint, 'protocol', `unexpected answer about ${spec.repo}`);
  }
  const files = siblings
    .map((sibling: unknown) =>
      repoFile(sibling, `${env.hfEndpoint}/${spec.repo}/resolve/${commit}`),
    )
    .filter((file) => file !== undefined)
    .sort((a, b) => (a.path < b.path ? -1 : 1));
  return { commit, files, secretHeaders, accessHint };
}

function repoFile(sibling: unknown, base: string): RepoFile | undefined {
  const path = stringField(sibling, 'rfilename');
  if (path === undefined || !isSafeRelativePath(path)) return undefined; // not for any cache
  const lfs = field(sibling, 'lfs');
  const sizeBytes = sizeField(lfs, 'size') ?? sizeField(sibling, 'size');
  return {
    path,
    sizeBytes,
    digest: digestOf(stringField(lfs, 'sha256'), stringField(sibling, 'blobId'), sizeBytes),
    url: `${base}/${path.split('/').map(encodeURIComponent).join('/')}`,
  };
}

function digestOf(
  sha256: string | undefined,
  blobId: string | undefined,
  sizeBytes: number | undefined,
): FileDigest | undefined {
  if (sha256 !== undefined && /^[0-9a-f]{64}$/.test(sha256))
    return { algorithm: 'sha256', hex: sha256 };
  if (blobId !== undefined && /^[0-9a-f]{40}$/.test(blobId) && sizeBytes !== undefined) {
    return { algorithm: 'git-sha1', hex: blobId };
  }
  return undefined;
}

async function hfToken(env: HubEnvironment): Promise<string | undefined> {
  if (env.hfToken !== undefined) return env.hfToken;
  if (env.hfTokenPath === undefined) return undefined;
  try {
    return (await fs.readFile(env.hfTokenPath, 'utf8')).trim() || undefined;
  } catch {
    return undefined; // never logged in
  }
}
