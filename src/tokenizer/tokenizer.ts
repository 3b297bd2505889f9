/** The way into this folder: the contract of a tokenizer, and the two places one can come from. */
export type { DecodeOptions, DecoderStream, EncodeOptions, Tokenizer } from './contract.ts';
export { TokenizerError } from './errors.ts';
export { tokenizerFromGguf } from './gguf-tokenizer.ts';
export { tokenizerFromHf } from './hf-tokenizer.ts';
