"""Pictures of arrays and tables: colours, matplotlib and plotly. Nothing here reads a store."""
