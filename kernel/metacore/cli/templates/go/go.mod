module addon

go 1.24
