/** `hasten rm`: removes a model from the cache. */
import type { Command } from 'commander';
import { hubEnvironmentFrom } from '../../hub/environment.ts';
import { removeCached } from '../../hub/inventory.ts';
import { formatBytes, printJson, printLine } from '../output.ts';

export function define(command: Command): void {
  command
    .argument('<model>', 'as hasten list shows it; a repository alone means all of its models')
    .option('--json', 'print one JSON object', false)
    .addHelpText('after', '\nExample:\n  $ hasten rm smollm2\n')
    .action(remove);
}

async function remove(spec: string, flags: { readonly json: boolean }): Promise<void> {
  const removed = await removeCached(spec, hubEnvironmentFrom(process.env));
  if (flags.json) await printJson(removed);
  else await printLine(`removed ${spec}: ${formatBytes(removed.freedBytes)} freed`);
}
