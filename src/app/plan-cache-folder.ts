/** Where packed weights are kept between runs, and offloaded keys and values during one: the user's own cache. */
import { homedir } from 'node:os';
import { join } from 'node:path';

/** `HASTEN_CACHE`, or `hasten` in the user's cache folder, with `plans` inside; an empty variable counts as none. */
export function planCacheFolder(variables: NodeJS.ProcessEnv = process.env): string {
  return inCache('plans', variables);
}

/** Likewise, with `kv` inside. */
export function kvOffloadFolder(variables: NodeJS.ProcessEnv = process.env): string {
  return inCache('kv', variables);
}

function inCache(name: string, variables: NodeJS.ProcessEnv): string {
  const caches = variables.XDG_CACHE_HOME || join(homedir(), '.cache');
  return join(variables.HASTEN_CACHE || join(caches, 'hasten'), name);
}
