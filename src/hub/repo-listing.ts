/** What a hub says is in a repository at one revision, the same for every hub. */
import type { FileDigest } from './download.ts';
import type { RepoSpec } from './model-spec.ts';

export interface RepoFile {
  /** Inside the repository, checked to be safe. */
  readonly path: string;
  readonly sizeBytes: number | undefined;
  readonly digest: FileDigest | undefined;
  readonly url: string;
}

export interface RepoListing {
  /** The commit, or for hubs that do not tell it a 40-digit id of the contents. */
  readonly commit: string;
  /** Sorted by path. */
  readonly files: readonly RepoFile[];
  /** Tokens for `url`, never sent to another host. */
  readonly secretHeaders: Readonly<Record<string, string>>;
  readonly accessHint: string;
}

/** What a spec without `@revision` means on each hub. */
export function revisionOf(spec: RepoSpec): string {
  return spec.revision ?? (spec.kind === 'hf' ? 'main' : 'master');
}

/** A field of a value of unknown shape; undefined if it has none. */
export function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null
    ? (value as Record<string, unknown>)[name]
    : undefined;
}

export function stringField(value: unknown, name: string): string | undefined {
  const found = field(value, name);
  return typeof found === 'string' ? found : undefined;
}

/** A byte count: a whole number from 0 on; undefined for anything else. */
export function sizeField(value: unknown, name: string): number | undefined {
  const found = field(value, name);
  return typeof found === 'number' && Number.isSafeInteger(found) && found >= 0 ? found : undefined;
}
