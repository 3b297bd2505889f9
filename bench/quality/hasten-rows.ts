/** hasten's logits of given windows to stdout (see logit-rows.ts). */

import { OpenedModel } from '../../src/app/open-model.ts';
import { scoringRows } from '../../src/app/scoring.ts';
import { SequenceDriver } from '../../src/app/sequence-driver.ts';
import { createRunner } from '../../src/runtime/create-runner.ts';
import type { TargetName } from '../../src/runtime/runner-options.ts';
import { readRequest, writeRow } from './logit-rows.ts';

const request = await readRequest();
using model = new OpenedModel(request.model);
const { config, weights } = model.description;
using runner = await createRunner({
  source: weights,
  config,
  target: (request.target ?? 'auto') as TargetName,
  precision: request.precision ?? 'fast',
  threads: request.threads,
  maxSeqs: 1,
  maxLogitRows: scoringRows(config.vocabSize),
  maxModelLen: Math.max(...request.windows.map((tokenIds) => tokenIds.length)),
  planCacheFolder: null,
});
const driver = new SequenceDriver(runner);
for (const tokenIds of request.windows) {
  driver.reset();
  await driver.feed(tokenIds.slice(0, -1), 'all', (_position, row) => writeRow(runner.logits(row)));
}
