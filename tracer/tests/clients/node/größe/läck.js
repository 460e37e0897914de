'use strict';
// Names that are not ASCII, and a text that has two bytes for each character: 漏れ.

async function läckt(pool) {
  const client = await pool.connect();
  return client.query("select '漏れ'"); // LEAK-LINE named
}

module.exports = { läckt };
