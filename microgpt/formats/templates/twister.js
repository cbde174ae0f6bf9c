// @ts-check
// The Mersenne Twister, seeded and read as Python's random.Random is: the same seed gives the same numbers.

const N = 624;
const M = 397;

export class Twister {
  /** @param {number} seed  A whole number from 0 to 2^53. */
  constructor(seed) {
    this.state = new Uint32Array(N);
    this.at = N;
    this.begin(19650218);
    const digits = [seed >>> 0, Math.floor(seed / 2 ** 32)];
    this.mix(digits[1] ? digits : digits.slice(0, 1));
  }

  /** @param {number} seed */
  begin(seed) {
    const { state } = this;
    state[0] = seed;
    for (let i = 1; i < N; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  }

  /** @param {number[]} digits  Of the seed, to the base 2^32, the lowest first. */
  mix(digits) {
    const { state } = this;
    let i = 1;
    const next = () => {
      if (++i < N) return;
      state[0] = state[N - 1];
      i = 1;
    };
    for (let k = 0; k < N; k++, next()) {
      const j = k % digits.length;
      state[i] = (state[i] ^ Math.imul(state[i - 1] ^ (state[i - 1] >>> 30), 1664525)) + digits[j] + j;
    }
    for (let k = 0; k < N - 1; k++, next()) state[i] = (state[i] ^ Math.imul(state[i - 1] ^ (state[i - 1] >>> 30), 1566083941)) - i;
    state[0] = 0x80000000;
  }

  /** The next 32 bits. */
  bits() {
    const { state } = this;
    if (this.at === N) {
      for (let k = 0; k < N; k++) {
        const y = (state[k] & 0x80000000) | (state[(k + 1) % N] & 0x7fffffff);
        state[k] = state[(k + M) % N] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.at = 0;
    }
    let y = state[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** A number from 0 to 1, 1 excluded, with 53 bits. */
  random() {
    const high = this.bits() >>> 5;
    return (high * 2 ** 26 + (this.bits() >>> 6)) / 2 ** 53;
  }
}
