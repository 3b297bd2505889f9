import assert from 'node:assert/strict';
import { it } from 'node:test';
import { Command } from 'commander';
import { define } from './quantize.ts';
import { type Asked, PLACED_OPTIONS, uselessOption } from './quantize-options.ts';

const asked = (way: Asked['way'], method?: string, imatrix?: string): Asked => ({
  ...{ way, ...(method && { method }), ...(imatrix && { imatrix }) },
});

it('finds an option that would do nothing', () => {
  assert.match(uselessOption(asked('rounded'), ['groupSize'])!, /^--group-size .* --to gptq, awq/);
  assert.match(uselessOption(asked('gguf'), ['json', 'method'])!, /^--method /);
  assert.match(uselessOption(asked('grouped', 'rtn'), ['tokens'])!, /^--tokens /);
  assert.match(uselessOption(asked('rounded', 'rtn'), ['calibration'])!, /^--calibration /);
  assert.match(uselessOption(asked('grouped', 'gptq'), ['imatrix'])!, /^--imatrix /);
  assert.match(uselessOption(asked('mixed'), ['tokens'])!, /^--tokens /);
});

it('lets those pass that do something', () => {
  assert.equal(uselessOption(asked('grouped'), ['bits', 'groupSize', 'symmetry', 'tokens']), null);
  assert.equal(uselessOption(asked('rounded', 'smoothquant'), ['tokens', 'method']), null);
  assert.equal(uselessOption(asked('gguf', undefined, 'auto'), ['tokens', 'calibration']), null);
  assert.equal(uselessOption(asked('mixed'), ['calibration', 'window', 'chart']), null);
  assert.equal(uselessOption(asked('gguf'), ['to', 'output', 'threads', 'json', 'offline']), null);
});

it('names options that there are', () => {
  const command = new Command('quantize');
  define(command);
  const flags = new Map(command.options.map((each) => [each.attributeName(), each.flags]));
  for (const name of PLACED_OPTIONS) {
    const message = ['gguf', 'mixed', 'grouped', 'rounded'].map((way) =>
      uselessOption(asked(way as Asked['way'], 'rtn'), [name]),
    );
    const told = message.find((each) => each !== null)!;
    assert.equal(told.split(' ')[0], flags.get(name)?.split(' ')[0]);
  }
});
