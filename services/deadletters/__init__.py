"""Not a service: what people do with records that could not be handled. The bus buries and parks, here they go on."""
