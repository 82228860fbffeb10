-- What must hold in every row whoever writes it, the kernel's own validation or not. Migrations run before the kernel
-- makes the declared tables, so this one makes the table; the kernel adds the columns that are missing.
CREATE TABLE tickets (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL,
    subject varchar(200) NOT NULL,
    status varchar(16) NOT NULL DEFAULT 'open',
    priority varchar(16) NOT NULL DEFAULT 'normal',
    due_at timestamptz,
    resolved_at timestamptz,
    rating integer,
    CONSTRAINT tickets_subject_is_not_blank CHECK (length(btrim(subject)) > 0),
    CONSTRAINT tickets_status_is_known CHECK (status IN ('open', 'pending', 'resolved', 'closed')),
    CONSTRAINT tickets_priority_is_known CHECK (priority IN ('low', 'normal', 'high', 'urgent')),
    CONSTRAINT tickets_rating_is_one_to_five CHECK (rating BETWEEN 1 AND 5)
);

-- The list that a support desk looks at all day: what is not finished, the most pressing first.
CREATE INDEX tickets_unfinished ON tickets (organization_id, due_at) WHERE status IN ('open', 'pending');
