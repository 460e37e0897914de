// Handlers of requests, one for each shape of the bug. What is a type only is gone from the compiled
// file, so its lines are others.

import Pool = require('pg-pool');

export interface Order {
  readonly id: number;
  readonly currency: 'EUR' | 'SEK';
}

interface Row {
  id: number;
  currency: Order['currency'];
}

type Load = (client: Pool.Client, id: number) => Promise<Order>;

const byId: Load = async (client, id) => {
  const text = 'select $1::int as id, $2::text as currency';
  const { rows } = await client.query(text, [id, 'EUR']); // LEAK-LINE arrow
  return rows[0] as unknown as Row;
};

// Nobody wrote the release.
export async function forgottenOrder(pool: Pool, id: number): Promise<Order> {
  const client = await pool.connect();
  const { rows } = await client
    .query('select $1::int as id', [id]); // LEAK-LINE forgotten
  return rows[0] as unknown as Order;
}

export async function healthyOrder(pool: Pool, id: number): Promise<Order> {
  const client = await pool.connect();
  try {
    return await byId(client, id);
  } finally {
    client.release();
  }
}

export class Invoices {
  constructor(private readonly pool: Pool) {}

  // The release is only where nothing was found.
  async total<T extends number>(customer: T): Promise<number | undefined> {
    const client = await this.pool.connect();
    const { rows } = await client.query('select 41 + $1::int as total', [customer]); // LEAK-LINE method
    const [row] = rows;
    if (!row) client.release();
    return row?.total as number | undefined;
  }

  async byArrow(id: number): Promise<Order> {
    const client = await this.pool.connect();
    return byId(client, id);
  }
}
