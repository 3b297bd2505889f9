import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { EVAL_SETS, evalWindows } from './eval-windows.ts';

describe('evalWindows', () => {
  for (const set of EVAL_SETS) {
    it(`has 13 windows of 512 ids for ${set}`, () => {
      const windows = evalWindows(set);
      assert.equal(windows.length, 13);
      for (const { tokenIds, referenceNll } of windows) {
        assert.equal(tokenIds.length, 512);
        assert.ok(tokenIds.every((id) => Number.isSafeInteger(id) && id >= 0));
        assert.ok(referenceNll > 1 && referenceNll < 5);
      }
    });
  }
});
