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

-- For the variants that deduplicate themselves.
CREATE TABLE processed (id text PRIMARY KEY);

INSERT INTO stock (sku, total, free) VALUES ('teapot', 1000, 1000);
