/**
 * What the hub code takes from the user's environment, as plain values.
 * Only the command line calls `hubEnvironmentFrom(process.env)`; everything below it is handed a `HubEnvironment`.
 */
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';

export interface HubEnvironment {
  /** Root of the Hugging Face hub cache, shared with other programs. Absolute. */
  readonly hubCacheDir: string;
  /** Root of the caches of the other sources. Absolute. */
  readonly otherCacheDir: string;
  /** Base address of the Hugging Face hub, without a slash at the end. */
  readonly hfEndpoint: string;
  /** Access token; takes precedence over the file. */
  readonly hfToken?: string;
  /** Where `hf auth login` leaves its token. */
  readonly hfTokenPath?: string;
  readonly modelscopeEndpoint: string;
  readonly modelscopeToken?: string;
  /** Never use the network (`HF_HUB_OFFLINE`). */
  readonly offline: boolean;
  /** What `~` stands for. */
  readonly homeDir: string;
  /** What relative local paths start from. */
  readonly workingDir: string;
  /** Ways to start pip, best first; the first that answers `--version` is used. */
  readonly pipCommands: readonly (readonly string[])[];
  /** Environment of the pip process, so that the user's own pip configuration counts. */
  readonly pipVariables: Readonly<Record<string, string | undefined>>;
}

const TRUE_WORDS = new Set(['1', 'on', 'yes', 'true']);

/**
 * Reads the variables that huggingface_hub and modelscope read, with the same precedence:
 * `HF_HUB_CACHE` > `HUGGINGFACE_HUB_CACHE` > `HF_HOME`/hub > `XDG_CACHE_HOME`/huggingface/hub > ~/.cache/huggingface/hub.
 * What comes from elsewhere goes to `hasten` in `HF_HOME`, beside the folders that huggingface_hub itself keeps there:
 * in its hub folder it would be reported as damaged.
 */
export function hubEnvironmentFrom(
  variables: Readonly<Record<string, string | undefined>>,
  workingDir: string = process.cwd(),
): HubEnvironment {
  const value = (name: string): string | undefined => {
    const text = variables[name]?.trim();
    return text === undefined || text === '' ? undefined : text;
  };
  const homeDir = value('HOME') ?? value('USERPROFILE') ?? homedir();
  const folder = (path: string): string => resolve(workingDir, expandHome(path, homeDir));

  const cacheHome = folder(value('XDG_CACHE_HOME') ?? join(homeDir, '.cache'));
  const hfHome = folder(value('HF_HOME') ?? join(cacheHome, 'huggingface'));
  const hubCache = value('HF_HUB_CACHE') ?? value('HUGGINGFACE_HUB_CACHE');
  const hfToken = value('HF_TOKEN') ?? value('HUGGING_FACE_HUB_TOKEN');
  const implicitToken = !TRUE_WORDS.has(
    (value('HF_HUB_DISABLE_IMPLICIT_TOKEN') ?? '').toLowerCase(),
  );
  const modelscopeDomain = value('MODELSCOPE_DOMAIN') ?? 'www.modelscope.cn';
  const modelscopeToken = value('MODELSCOPE_API_TOKEN');

  return {
    hubCacheDir: hubCache === undefined ? join(hfHome, 'hub') : folder(hubCache),
    otherCacheDir: join(hfHome, 'hasten'),
    hfEndpoint: withoutEndSlash(value('HF_ENDPOINT') ?? 'https://huggingface.co'),
    ...(hfToken === undefined ? {} : { hfToken }),
    ...(implicitToken
      ? { hfTokenPath: folder(value('HF_TOKEN_PATH') ?? join(hfHome, 'token')) }
      : {}),
    modelscopeEndpoint: withoutEndSlash(
      /^https?:\/\//.test(modelscopeDomain) ? modelscopeDomain : `https://${modelscopeDomain}`,
    ),
    ...(modelscopeToken === undefined ? {} : { modelscopeToken }),
    offline: TRUE_WORDS.has((value('HF_HUB_OFFLINE') ?? '').toLowerCase()),
    homeDir,
    workingDir,
    pipCommands: [
      ['python3', '-m', 'pip'],
      ['pip3'],
      ['pip'],
      ['python', '-m', 'pip'],
      ['py', '-m', 'pip'],
    ],
    pipVariables: variables,
  };
}

/** `~` and `~/x` with the home folder put in; anything else as it is. */
export function expandHome(path: string, homeDir: string): string {
  if (path === '~') return homeDir;
  return /^~[/\\]/.test(path) ? join(homeDir, path.slice(2)) : path;
}

function withoutEndSlash(text: string): string {
  return text.replace(/\/+$/, '');
}
