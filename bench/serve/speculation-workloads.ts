/**
 * Requests with and without something to gain from drafts: edits and extractions, whose answers repeat parts of the prompt, and free text at
 * temperature 1. Plain completions, so that a small model does what is asked.
 */

export interface SpeculationRequest {
  readonly prompt: string;
  readonly max_tokens: number;
  readonly temperature: number;
  readonly seed: number;
  readonly ignore_eos: boolean;
}

export interface SpeculationWorkload {
  readonly name: string;
  readonly requests: readonly SpeculationRequest[];
}

const PASSAGES = [
  `Margaret Holloway opened the bakery on Tanner Street in the spring of 1987 with two ovens and a borrowed delivery van. For the first year she
worked alone from three in the morning until noon, and the rye loaves sold out before the schoolchildren passed by at eight. In 1989 she hired
Peter Lindqvist, who had learned his trade in Malmö, and together they moved to the larger shop beside the river, where the bakery still stands.`,
  `The pump must be switched off before the cover is removed. Loosen the four screws at the corners, lift the cover straight up, and set it aside
on a clean surface. Check the rubber seal for cracks; a damaged seal must be replaced before the pump is used again. Clean the filter with warm
water only, never with solvents, and let it dry for at least one hour. Refit the cover and tighten the screws crosswise to two newton metres.`,
  `def load_orders(path, limit):
    orders = []
    with open(path, encoding="utf-8") as handle:
        for line in handle:
            fields = line.rstrip().split(";")
            if len(fields) != 4:
                raise ValueError(f"expected 4 fields, got {len(fields)}")
            orders.append({"id": int(fields[0]), "customer": fields[1], "amount": float(fields[2]), "date": fields[3]})
            if len(orders) == limit:
                break
    return orders`,
  `The committee met on 4 March and heard three reports. Dr. Osei described the flooding of the lower fields and asked for new drains along the
eastern ditch. Ms. Tanaka presented the accounts, which show a surplus of 4,120 euros after the sale of the old tractor. Mr. Delgado reported
that the roof of the barn had been repaired in February at a cost of 2,900 euros, and that the insurance would pay for two thirds of it.`,
];

const RECORDS = Array.from({ length: 4 }, (_, set) =>
  ['Anna Berg', 'Joao Pires', 'Mei Lin', 'Omar Haddad', 'Ruth Cohen', 'Ivan Petrov'].map(
    (name, i) =>
      `${name} (employee ${1000 + 37 * i + set}) works in building ${'ABCD'[(i + set) % 4]}, room ${200 + 11 * i + set}, telephone ${5500 + 13 * i + set}, and can be reached at ${name.toLowerCase().replace(' ', '.')}@example.org.`,
  ),
);

const STORIES = [
  'The lighthouse keeper had not spoken to anyone for',
  'Three things went wrong on the morning of the parade. First,',
  'My grandmother used to say that the sea remembers, and',
  'Nobody in the village could explain why the clock',
];

/** @param scale of the number of requests */
export function speculationWorkloads(scale: number): SpeculationWorkload[] {
  const some = <T>(items: readonly T[]): T[] =>
    Array.from(
      { length: Math.max(1, Math.round(items.length * scale)) },
      (_, i) => items[i % items.length]!,
    );
  const greedy = { temperature: 0, seed: 1, ignore_eos: true };
  return [
    {
      name: 'editing',
      requests: some(PASSAGES).map((passage) => ({
        ...greedy,
        prompt: `Text:\n${passage}\n\nThe same text again, word for word, with the mistakes corrected:\n`,
        max_tokens: 120,
      })),
    },
    {
      name: 'extraction',
      requests: some(RECORDS).map((records) => ({
        ...greedy,
        prompt: `${records.join('\n')}\n\nAll sentences above as a list, one line for each person:\n- ${records[0]}\n-`,
        max_tokens: 140,
      })),
    },
    {
      // Twice as many: the difference that is looked for is small.
      name: 'free text, temperature 1',
      requests: some([...STORIES, ...STORIES]).map((prompt, i) => ({
        prompt,
        max_tokens: 160,
        temperature: 1,
        seed: 100 + i,
        ignore_eos: true,
      })),
    },
  ];
}
