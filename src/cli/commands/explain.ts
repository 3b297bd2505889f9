/** `hasten explain`: how a model is compiled, stage by stage. */
import type { Command } from 'commander';
import { lowerGraph } from '../../graph/lower-graph.ts';
import { printGraph, summarizeGraph } from '../../graph/print.ts';
import { hubEnvironmentFrom } from '../../hub/environment.ts';
import { resolveModel } from '../../hub/resolve.ts';
import { loadModelDescription } from '../../models/load-model.ts';
import { quantizedDtypes } from '../../runtime/create-runner.ts';
import { UsageError } from '../errors.ts';
import { hubProgress } from '../hub-progress.ts';
import { InterruptHandler } from '../interrupt.ts';
import { addEngineOptions, type EngineFlags } from '../options.ts';
import { printJson, printLine, styled } from '../output.ts';
import { ProgressReporter } from '../progress.ts';

interface ExplainFlags extends EngineFlags {
  readonly stage?: string;
  readonly json: boolean;
}

export function define(command: Command): void {
  addEngineOptions(command)
    .argument('<model>', 'a path, an alias or any form that pull takes')
    .option('--stage <name>', 'print one stage only: "model", or the name of a pass')
    .option('--json', 'print one JSON object', false)
    .addHelpText(
      'after',
      '\nExamples:\n  $ hasten explain smollm2 | less\n  $ hasten explain smollm2 --stage merge-linears\n',
    )
    .action(explain);
}

async function explain(spec: string, flags: ExplainFlags): Promise<void> {
  using interrupts = new InterruptHandler();
  using progress = new ProgressReporter();
  const resolved = await resolveModel(spec, {
    env: hubEnvironmentFrom(process.env),
    offline: flags.offline,
    signal: interrupts.signal,
    onProgress: hubProgress(progress),
  });
  using description = loadModelDescription(resolved.path, { maxModelLen: flags.maxModelLen });
  const lowered = lowerGraph(description.stepGraph, {
    directory: description.weights.tensors,
    q8Dtypes: flags.precision === 'fast' ? quantizedDtypes(description.weights) : [],
  });
  const stages = [{ name: 'model', graph: description.stepGraph }, ...lowered.stages];
  const wanted =
    flags.stage === undefined ? stages : stages.filter(({ name }) => name === flags.stage);
  if (wanted.length === 0) {
    const names = stages.map(({ name }) => name).join(', ');
    throw new UsageError(`--stage ${flags.stage}: expected one of ${names}`);
  }
  if (flags.json) {
    await printJson({
      model: spec,
      stages: wanted.map(({ name, graph }) => ({
        name,
        nodes: graph.nodes.length,
        ops: summarizeGraph(graph),
        text: printGraph(graph),
      })),
    });
    return;
  }
  if (flags.stage !== undefined) {
    for (const { graph } of wanted) await printLine(printGraph(graph));
    return;
  }
  await printLine(styled('bold', 'As the model describes itself'));
  await printLine(printGraph(description.stepGraph));
  await printLine(styled('bold', 'Passes'));
  for (const { name, graph } of lowered.stages) {
    const nodes = String(graph.nodes.length).padStart(5);
    await printLine(`  ${name.padEnd(24)} ${nodes} nodes  ${summarizeGraph(graph)}`);
  }
  await printLine();
  await printLine(styled('bold', 'After all passes'));
  await printLine(printGraph(lowered.graph));
}
