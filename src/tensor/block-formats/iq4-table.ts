/** kvalues_iq4nl of ggml: the 16 values of its non-linear 4-bit formats. */
export const IQ4_TABLE: Int8Array = Int8Array.of(
  ...[-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
);
