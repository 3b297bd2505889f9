/** `hasten list`: what the cache holds. */
import type { Command } from 'commander';
import { hubEnvironmentFrom } from '../../hub/environment.ts';
import { listCached } from '../../hub/inventory.ts';
import { formatBytes, formatTable, note, printJson, printLine } from '../output.ts';

export function define(command: Command): void {
  command
    .option('--json', 'print one JSON object', false)
    .addHelpText('after', '\nExample:\n  $ hasten list\n')
    .action(list);
}

async function list(flags: { readonly json: boolean }): Promise<void> {
  const env = hubEnvironmentFrom(process.env);
  const models = listCached(env).sort((a, b) => b.modifiedMs - a.modifiedMs);
  if (flags.json) {
    await printJson({ cache: env.hubCacheDir, models });
    return;
  }
  if (models.length === 0) {
    note(`no models in ${env.hubCacheDir}; hasten pull smollm2 fetches one`);
    return;
  }
  const rows = models.map((model) => [
    model.alias ?? model.spec,
    formatBytes(model.sizeBytes),
    new Date(model.modifiedMs).toISOString().slice(0, 10),
    model.isComplete ? '' : 'incomplete; pull it again to resume',
  ]);
  await printLine(formatTable(['MODEL', 'SIZE', 'DATE', ''], rows));
}
