/** `hasten show`: what a model is made of. Fetches nothing. */
import type { Command } from 'commander';
import { hubEnvironmentFrom } from '../../hub/environment.ts';
import { resolveModel } from '../../hub/resolve.ts';
import { loadModelDescription, type ModelDescription } from '../../models/load-model.ts';
import { formatBytes, printJson, printLine, styled } from '../output.ts';

interface ShowFlags {
  readonly tensors: boolean;
  readonly json: boolean;
}

export function define(command: Command): void {
  command
    .argument('<model>', 'a cached model, a path or an alias')
    .option('--tensors', 'list every tensor with its type, shape and size', false)
    .option('--json', 'print one JSON object', false)
    .addHelpText('after', '\nExample:\n  $ hasten show smollm2 --tensors\n')
    .action(show);
}

async function show(spec: string, flags: ShowFlags): Promise<void> {
  const env = hubEnvironmentFrom(process.env);
  const resolved = await resolveModel(spec, { env, offline: true });
  using description = loadModelDescription(resolved.path);
  const { config, format, samplingDefaults } = description;
  const { layers, ...numbers } = config;
  const windows = new Set(layers.map(({ window }) => window));
  const summary = {
    ...resolved,
    format,
    parameters: parametersOf(description),
    dtypes: dtypesOf(description),
    config: { ...numbers, slidingWindows: [...windows].filter((window) => window !== null) },
    samplingDefaults,
  };
  const tensors = [...description.weights.tensors.values()];
  if (flags.json) {
    await printJson(flags.tensors ? { ...summary, tensors } : summary);
    return;
  }
  const rows: [string, string][] = [
    ['model', resolved.name],
    ['path', resolved.path],
    ['source', resolved.source],
    ['size', `${formatBytes(resolved.sizeBytes)}, ${format}`],
    ...(resolved.digest ? [['sha256', resolved.digest] satisfies [string, string]] : []),
    ['architecture', config.architecture],
    ['parameters', `${(summary.parameters / 1e6).toFixed(1)} million`],
    ['dtypes', describeDtypes(summary.dtypes)],
    ['layers', String(config.numLayers)],
    ['hidden size', `${config.hiddenSize}, feed-forward ${config.intermediateSize}`],
    ['heads', `${config.numHeads} query, ${config.numKvHeads} key/value, ${config.headDim} wide`],
    ['vocabulary', String(config.vocabSize)],
    ['context', `${config.maxPositionEmbeddings} tokens`],
    ['end tokens', config.eosTokenIds.join(', ') || 'none'],
    ['sampling', JSON.stringify(samplingDefaults)],
  ];
  for (const [name, value] of rows) await printLine(`${styled('bold', name.padEnd(13))} ${value}`);
  if (!flags.tensors) return;
  await printLine();
  for (const { name, dtype, shape, sizeBytes } of tensors) {
    const size = formatBytes(sizeBytes).padStart(8);
    await printLine(`${dtype.padEnd(6)} ${`[${shape.join(', ')}]`.padEnd(16)} ${size}  ${name}`);
  }
}

function parametersOf({ weights }: ModelDescription): number {
  return [...weights.tensors.values()].reduce(
    (sum, { shape }) => sum + shape.reduce((product, dim) => product * dim, 1),
    0,
  );
}

/** Bytes by dtype, the largest first. */
function dtypesOf({ weights }: ModelDescription): Record<string, number> {
  const bytes = new Map<string, number>();
  for (const { dtype, sizeBytes } of weights.tensors.values()) {
    bytes.set(dtype, (bytes.get(dtype) ?? 0) + sizeBytes);
  }
  return Object.fromEntries([...bytes].sort((a, b) => b[1] - a[1]));
}

function describeDtypes(dtypes: Record<string, number>): string {
  return Object.entries(dtypes)
    .map(([dtype, bytes]) => `${dtype} ${formatBytes(bytes)}`)
    .join(', ');
}
