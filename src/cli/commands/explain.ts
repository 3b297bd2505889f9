/** `hasten explain`: how a model is compiled, stage by stage. */
import type { Command } from 'commander';
import { printPlan, summarizePlan } from '../../compiler/print-plan.ts';
import { printGraph, summarizeGraph } from '../../graph/print.ts';
import { loadModelDescription } from '../../models/load-model.ts';
import { stepGraphOf } from '../../models/step-graph.ts';
import { lowerModel, planRunner } from '../../runtime/compile-model.ts';
import { resolveTarget } from '../../runtime/create-runner.ts';
import { machineOf } from '../../targets/x64/isa.ts';
import { UsageError } from '../errors.ts';
import { InterruptHandler } from '../interrupt.ts';
import { findModelWithProgress, runnerFlags } from '../model-command.ts';
import { addEngineOptions, type EngineFlags, openingOptions } from '../options.ts';
import { printJson, printLine, styled } from '../output.ts';

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
  const { path } = await findModelWithProgress(spec, {
    offline: flags.offline,
    signal: interrupts.signal,
  });
  using description = loadModelDescription(path, openingOptions(flags));
  const target = resolveTarget(flags.target);
  const { config, weights: source } = description;
  const planned =
    target.kind === 'x64'
      ? planRunner(
          { ...runnerFlags(flags), maxModelLen: flags.maxModelLen, config, source },
          target.isa,
        )
      : null;
  const lowered = planned?.lowered ?? lowerModel({ config, source, precision: flags.precision });
  const machine = target.kind === 'x64' ? machineOf(target.isa) : null;
  const stepGraph = stepGraphOf(description);
  const stages = [{ name: 'model', graph: stepGraph }, ...lowered.stages];
  const wanted =
    flags.stage === undefined ? stages : stages.filter(({ name }) => name === flags.stage);
  if (wanted.length === 0) {
    const names = stages.map(({ name }) => name).join(', ');
    throw new UsageError(`--stage ${flags.stage}: expected one of ${names}`);
  }
  if (flags.json) {
    await printJson({
      model: spec,
      target: target.kind === 'x64' ? target.isa : 'reference',
      plan: planned && machine ? summarizePlan(planned.plan, machine) : null,
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
  await printLine(printGraph(stepGraph));
  await printLine(styled('bold', 'Passes'));
  for (const { name, graph } of lowered.stages) {
    const nodes = String(graph.nodes.length).padStart(5);
    await printLine(`  ${name.padEnd(24)} ${nodes} nodes  ${summarizeGraph(graph)}`);
  }
  await printLine();
  await printLine(styled('bold', 'After all passes'));
  await printLine(printGraph(lowered.graph));
  if (!planned || !machine) {
    await printLine('The reference target runs this graph as it is: there is no plan.');
    return;
  }
  await printLine(styled('bold', `Plan for ${target.kind === 'x64' ? target.isa : ''}`));
  await printLine(printPlan(planned.plan, machine));
}
