/** Which layers of Qwen models slide: none unless `use_sliding_window`, then those from `max_window_layers` on. */
import type { ConfigFields } from '../config-fields.ts';
import type { LayerType } from '../hf-rope.ts';

export function qwenLayerType(fields: ConfigFields, index: number): LayerType {
  const isSliding =
    fields.boolean('use_sliding_window', false) &&
    fields.has('sliding_window') &&
    index >= fields.number('max_window_layers', 28);
  return isSliding ? 'sliding_attention' : 'full_attention';
}
