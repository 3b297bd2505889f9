/** Where the benchmarks find things: the checkout, and the folder outside it for models and results. */
import { mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url));
export const PEERS = fileURLToPath(new URL('../peers', import.meta.url));

/** hasten's cache folder, as its launcher chooses it. */
function cacheFolder(): string {
  const base = process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache');
  return process.env.HASTEN_CACHE ?? join(base, 'hasten');
}

/** Made models and results, kept between runs. */
export function benchFolder(): string {
  const folder = join(cacheFolder(), 'bench');
  mkdirSync(folder, { recursive: true });
  return folder;
}
