/** Where packed weights are kept between runs: the user's own cache, beside the cached code. */
import { homedir } from 'node:os';
import { join } from 'node:path';

/** `HASTEN_CACHE`, or `hasten` in the user's cache folder, with `plans` inside. */
export function planCacheFolder(variables: NodeJS.ProcessEnv = process.env): string {
  const caches = variables.XDG_CACHE_HOME ?? join(homedir(), '.cache');
  return join(variables.HASTEN_CACHE ?? join(caches, 'hasten'), 'plans');
}
