import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { it } from 'node:test';
import { goldenModels } from '../../test/golden-models.ts';
import type { Graph } from '../graph/ir.ts';
import { printGraph } from '../graph/print.ts';
import { verifyGraph } from '../graph/verify.ts';
import { ModelError } from './errors.ts';
import { loadModelDescription, type ModelDescription } from './load-model.ts';
import { buildStepGraph, stepGraphOf } from './step-graph.ts';

const FIXTURES = path.join(import.meta.dirname, '../../test/fixtures');
const LLAMA = path.join(FIXTURES, 'tiny/llama-bias');

/** A copy of a model folder whose config.json says something else. */
function withConfig(change: Record<string, unknown>, use: (folder: string) => void): void {
  const folder = mkdtempSync(path.join(tmpdir(), 'hasten-model-'));
  try {
    cpSync(LLAMA, folder, { recursive: true });
    const file = path.join(folder, 'config.json');
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), ...change }));
    use(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

it('gives every reference model a graph that verifies and uses all its tensors', () => {
  for (const { name, path: modelPath } of goldenModels()) {
    using model = loadModelDescription(modelPath);
    verifyGraph(stepGraphOf(model), 'model');
    assert.deepEqual(unusedTensors(model), [], name);
  }
});

it('builds the same graph each time', () => {
  using model = loadModelDescription(LLAMA);
  const again = buildStepGraph(model.config, model.weights.tensors);
  assert.equal(printGraph(again), printGraph(stepGraphOf(model)));
});

/** Tensors that the graph does not need. */
function unusedTensors(model: ModelDescription): readonly string[] {
  const used = new Set<string>();
  for (const node of stepGraphOf(model).nodes) {
    if (node.op === 'weight') for (const part of node.attrs.ref.parts) used.add(part.tensor);
  }
  return [...model.weights.tensors.keys()].filter((name) => !used.has(name));
}

function graphOf(folder: string): Graph {
  using model = loadModelDescription(folder);
  return stepGraphOf(model);
}

it('names the tensor whose shape disagrees, the shape seen and the one expected', () => {
  withConfig({ intermediate_size: 130 }, (folder) => {
    assert.throws(
      () => graphOf(folder),
      (error) =>
        error instanceof ModelError &&
        error.tensor === 'model.layers.0.mlp.gate_proj.weight' &&
        error.seen === '[128, 64]' &&
        error.expected === '[130, 64]' &&
        error.message.startsWith(folder),
    );
  });
});

it('names the tensor that is missing', () => {
  withConfig({ num_hidden_layers: 3 }, (folder) => {
    assert.throws(
      () => graphOf(folder),
      /tensor "model.layers.2.input_layernorm.weight" is missing; expected one of shape \[64\]/,
    );
  });
});

it('refuses a bias that the configuration does not know of', () => {
  withConfig({ attention_bias: false }, (folder) => {
    assert.throws(
      () => graphOf(folder),
      /"model.layers.0.self_attn.q_proj.bias" is in the file, but .* has no bias/,
    );
  });
});

it('lists tensors that the graph does not need', () => {
  withConfig({ num_hidden_layers: 1 }, (folder) => {
    using model = loadModelDescription(folder);
    const unused = unusedTensors(model);
    assert.ok(unused.length > 0);
    assert.ok(unused.every((name) => name.startsWith('model.layers.1.')));
  });
});

it('refuses a config.json that is not JSON, or no object', () => {
  withConfig({}, (folder) => {
    writeFileSync(path.join(folder, 'config.json'), '{ "hidden_size": ');
    assert.throws(() => loadModelDescription(folder), /config.json: is not valid JSON/);
    writeFileSync(path.join(folder, 'config.json'), '[]');
    assert.throws(
      () => loadModelDescription(folder),
      /config.json: holds \[\]; expected an object/,
    );
  });
});

it('refuses weights without a description, and paths that lead nowhere', () => {
  assert.throws(
    () => loadModelDescription(path.join(LLAMA, 'model.safetensors')),
    /there is no config.json/,
  );
  assert.throws(() => loadModelDescription('/no/such/model'), /there is no such file or folder/);
});
