CREATE TABLE stock (
    sku   text PRIMARY KEY,
    total int NOT NULL,
    free  int NOT NULL CHECK (free >= 0)
);

CREATE TABLE reservations (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id text NOT NULL,
    sku      text NOT NULL REFERENCES stock,
    quantity int NOT NULL CHECK (quantity > 0)
);

-- For the effect in SQL.
CREATE FUNCTION reserve(wanted jsonb) RETURNS void LANGUAGE sql AS $$
    UPDATE stock SET free = free - CAST(wanted ->> 'quantity' AS int) WHERE sku = wanted ->> 'sku';
    INSERT INTO reservations (order_id, sku, quantity)
    VALUES (wanted ->> 'order_id', wanted ->> 'sku', CAST(wanted ->> 'quantity' AS int));
$$;

-- For the variants that deduplicate themselves.
CREATE TABLE processed (id text PRIMARY KEY);

INSERT INTO stock (sku, total, free) VALUES ('teapot', 1000, 1000);
