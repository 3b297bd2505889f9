/**
 * Rows of attention before and behind the context: queries to scratch, the state before a span, its fold into that of the spans before
 * (attention-spans.ts), and the output. Knows nothing of keys and values.
 */
import { rotationSize } from '../tensor/kv-row.ts';
import { type AttentionFrame, STATE } from './attention-frame.ts';
import {
  finishHead,
  LOWEST_MAX,
  mergeSpan,
  outputHeadBytes,
  type SpanState,
  spanStateBytes,
  storeSpan,
} from './attention-spans.ts';
import { rotateHead } from './kv-elements.ts';
import { hasRotatedKeys, hasRotatedValues } from './kv-layout.ts';
import { forEachColumnGroup } from './rows.ts';

/** Scaled queries to scratch. */
export function loadQueries(frame: AttentionFrame): void {
  const { k, shape } = frame;
  const { headDim, kvType } = shape;
  const from = frame.query.get();
  const to = frame.scratchAt(frame.q);
  const turns = hasRotatedKeys(kvType) ? rotationSize(headDim) : 1;
  const scale = k.splatF32((shape.scale * Math.LOG2E) / turns);
  k.loop(
    frame.numTokens.get(),
    () => {
      forEachColumnGroup(k, frame.group * headDim, 4, ({ at, count }) => {
        k.store(at(to), k.mulF(k.load(at(from), 'bits', count), scale), 'bits', count);
      });
      k.addTo(to, 4 * frame.group * headDim);
      k.addTo(from, k.arg('qStride'));
    },
    { countIsPositive: true },
  );
  if (!hasRotatedKeys(kvType)) return;
  const head = frame.scratchAt(frame.q);
  k.loop(
    k.mul(frame.numTokens.get(), frame.group),
    () => {
      rotateHead(k, headDim, head);
      k.addTo(head, 4 * headDim);
    },
    { countIsPositive: true },
  );
}

/** m, l and o of every row before the span. */
export function startRows(frame: AttentionFrame): void {
  const { k } = frame;
  const rows = k.mul(frame.numTokens.get(), frame.group);
  const o = frame.scratchAt(frame.o);
  const state = frame.scratchAt(frame.states);
  const zero = k.zero();
  const lowest = k.splatF32(LOWEST_MAX);
  k.loop(
    rows,
    () => {
      k.unrolledLanes(frame.rowElements, (d) => {
        k.store(k.at(o, 4 * d), zero);
      });
      k.store(k.at(state, STATE.sum), zero);
      k.store(k.at(state, STATE.max), lowest);
      k.addTo(o, 4 * frame.rowElements);
      k.addTo(state, STATE.bytes);
    },
    { countIsPositive: true },
  );
}

/** The rows' states of this span into those of the spans before. */
export function foldSpan(frame: AttentionFrame): void {
  const { k, shape } = frame;
  const { headDim } = shape;
  const o = frame.scratchAt(frame.o);
  const state = frame.scratchAt(frame.states);
  const target = frame.target.get();
  const isFirst = frame.isFirstSpan.get();
  k.loop(
    frame.numTokens.get(),
    () => {
      const to = k.copy(target);
      k.loop(frame.group, () => {
        const span: SpanState = {
          max: k.load(k.at(state, STATE.max)),
          sum: k.unary('f32.reduceAdd', k.load(k.at(state, STATE.sum))),
          output: o,
        };
        k.if(
          isFirst,
          'ne',
          0,
          () => storeSpan(k, headDim, to, span),
          () => mergeSpan(k, headDim, to, span),
        );
        k.addTo(to, spanStateBytes(headDim));
        k.addTo(o, 4 * frame.rowElements);
        k.addTo(state, STATE.bytes);
      });
      k.addTo(target, frame.targetStride.get());
    },
    { countIsPositive: true },
  );
  frame.isFirstSpan.set(k.const(0));
}

/** Outputs of the rows from their folded states. */
export function finishRows(frame: AttentionFrame): void {
  const { k, shape } = frame;
  const { headDim, output, kvType } = shape;
  const state = frame.scratchAt(frame.folded);
  const row = frame.out.get();
  k.loop(
    frame.numTokens.get(),
    () => {
      const out = k.copy(row);
      k.loop(frame.group, () => {
        finishHead(k, { headDim, output, isRotated: hasRotatedValues(kvType) }, state, out);
        k.addTo(out, outputHeadBytes(headDim, output));
        k.addTo(state, spanStateBytes(headDim));
      });
      k.addTo(row, k.arg('outStride'));
    },
    { countIsPositive: true },
  );
}
