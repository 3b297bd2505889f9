/**
 * Which tokens end a turn, known by their text: files often name only one EOS, and base models none for chat.
 * Source: the list that llama.cpp keeps for the same reason (`src/llama-vocab.cpp`), without fill-in-the-middle tokens.
 */

export const END_OF_TURN_TEXTS: readonly string[] = [
  '<|eot_id|>',
  '<|im_end|>',
  '<|end|>',
  '<|return|>',
  '<|call|>',
  '<end_of_turn>',
  '<|endoftext|>',
  '<|eom_id|>',
  '<EOT>',
  '_<EOT>',
  '[EOT]',
  '[EOS]',
  '<|end_of_text|>',
  '<end_of_utterance>',
  '<eos>',
  '<｜end▁of▁sentence｜>',
];

/**
 * All ids that end a turn: the declared ones first, then those known by their text.
 *
 * @param declared ids that the file names, null where it names none
 * @param idOf looks up an added token
 */
export function endOfTurnIds(
  declared: readonly (number | null)[],
  idOf: (text: string) => number | undefined,
): number[] {
  const ids = new Set<number>();
  for (const id of declared) if (id !== null) ids.add(id);
  const found = END_OF_TURN_TEXTS.filter((text) => idOf(text) !== undefined);
  // In the harmony format `<|end|>` ends a message, not the turn.
  const isHarmony = found.includes('<|return|>') && found.includes('<|call|>');
  for (const text of found) if (!(isHarmony && text === '<|end|>')) ids.add(idOf(text)!);
  return [...ids];
}
